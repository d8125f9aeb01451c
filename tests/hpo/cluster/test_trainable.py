"""What a worker tells of a cell, beside its numbers: where it ran, and what it took of a GPU."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from core.data import load_source
from core.policies import NoMix
from core.training.config import TrainingConfig
from hpo.cells.cell import Cell
from hpo.cells.gpu_use import GpuUse
from hpo.cluster import trainable
from hpo.cluster.gpu_memory import Meter, Read
from hpo.storage.folder import FolderStorage

CELL = Cell(
    "none",
    TrainingConfig(
        "digits", "cnn", NoMix(), width=2, train_size=20, meta_size=20, epochs=2,
        batch_size=20, meta_batch_size=20,
    ),
)  # fmt: skip


@contextmanager
def taken(device: str, share: float) -> Iterator[Read]:
    yield lambda: GpuUse(30, 100, share)


@contextmanager
def too_much(device: str, share: float) -> Iterator[Read]:
    raise torch.OutOfMemoryError("CUDA out of memory.")
    yield


def ending(
    meter: Meter | None, gpus: float, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Returns what the worker says last."""
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(trainable.tune, "report", reports.append)
    trainable.train_cell(
        {"cell": CELL.to_dict()},
        sources={("digits", None): load_source("digits")},
        storage=FolderStorage(folder),
        device="cpu",
        threads=1,
        gpus=gpus,
        **({} if meter is None else {"meter": meter}),
    )
    last: dict[str, Any] = json.loads(reports[-1]["ending"])
    return last


def test_a_cell_tells_where_it_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = ending(None, 0.0, tmp_path, monkeypatch)
    assert last["status"] == "finished"
    assert last["environment"]["host"] == platform.node()
    assert "node" not in last["environment"]  # there is no Ray here
    assert not any(name.startswith("gpu") for name in last["environment"])


@pytest.mark.parametrize(("gpus", "share"), [(0.25, "0.25"), (2.0, "1")])
def test_a_cell_tells_what_it_took_of_its_gpu(
    gpus: float, share: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = ending(taken, gpus, tmp_path, monkeypatch)["environment"]
    assert {name: noted[name] for name in noted if name.startswith("gpu")} == {
        "gpu_peak_bytes": "30",
        "gpu_bytes": "100",
        "gpu_share": share,
    }


def test_a_cell_whose_share_is_too_small_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = ending(too_much, 0.25, tmp_path, monkeypatch)
    assert last["status"] == "crashed"
    assert last["error"].startswith("OutOfMemoryError: CUDA out of memory.")
    assert last["error"].endswith("its share of the GPU is 0.25: raise --gpus-per-cell")
    alone = ending(too_much, 1.0, tmp_path, monkeypatch)
    assert "share" not in alone["error"]

"""Where another device is torch's default, such as "meta", data are drawn on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.data import (
    balanced_draws,
    flip_labels,
    load_source,
    long_tail,
    make_splits,
    read_labels,
    source_from_arrays,
)

LABELS = np.arange(300) % 3


def stored(path: Path) -> str:
    np.save(path / "labels.npy", LABELS)
    return str(path / "labels.npy")


def arrays() -> Any:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 8, 8), dtype=np.uint8)
    return source_from_arrays("mine", pixels, LABELS, pixels[:30], LABELS[:30])


CALLS: dict[str, Callable[[Path], Any]] = {
    "flip_labels": lambda _: flip_labels(LABELS, 3, fraction=0.4, seed=0),
    "flip_labels to the next": lambda _: flip_labels(LABELS, 3, fraction=0.4, kind="pair", seed=0),
    "long_tail": lambda _: long_tail(LABELS, 3, ratio=9, seed=0),
    "balanced_draws": lambda _: balanced_draws(
        torch.from_numpy(LABELS), torch.Generator(device="cpu").manual_seed(0)
    ),
    "make_splits": lambda _: (
        make_splits(LABELS, 3, meta_size=31, seed=0, train_size=90, labelled=7).labelled
    ),
    "read_labels": lambda path: read_labels(stored(path), 300, 3),
    "load_source": lambda _: load_source("digits").train_labels,
    "source_from_arrays": lambda _: arrays().train_labels,
}


@pytest.mark.parametrize("name", CALLS)
def test_another_default_device_changes_nothing(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        elsewhere = CALLS[name](tmp_path)
    assert np.array_equal(np.asarray(elsewhere), np.asarray(CALLS[name](tmp_path)))

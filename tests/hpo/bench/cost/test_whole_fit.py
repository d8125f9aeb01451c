"""Whole epochs: who takes part, what a round trains, and the table that comes of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from core.data import Source
from core.models import build_model
from core.policies import Beta
from core.training.config import TrainingConfig
from core.training.training import Training
from core.user_model import precision
from hpo.bench.cost import whole_fit
from hpo.bench.cost.bench import Case, Setting
from hpo.bench.cost.earlier import check_tree, earlier_epochs
from hpo.bench.cost.plain_loop import plain_epochs
from hpo.bench.cost.report import build_table, to_markdown
from hpo.bench.cost.whole_fit import STEPS, Row, measure_fit, resized, rows

CASE = Case("digits_cnn", 10, 3, 8, 4, width=4, part="fit")
ON_A_CPU = [
    "loop", "loop-bf16-channels_last", "fit", "fit-channels_last", "fit-bf16",
    "fit-bf16-channels_last", "metamixup", "metamixup-channels_last", "metamixup-bf16",
    "metamixup-bf16-channels_last",
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_fp16_supported", lambda: False)


def test_every_precision_of_the_device_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [row.name for row in rows("cpu")] == ON_A_CPU
    monkeypatch.setattr(precision.torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: True)
    names = [row.name for row in rows("cpu")]
    assert [name for name in names if name not in ON_A_CPU] == [
        "fit-fp16", "fit-fp16-channels_last", "metamixup-fp16", "metamixup-fp16-channels_last",
    ]  # fmt: skip


def test_images_have_the_cases_size_and_the_sources_labels(source: Source) -> None:
    made = resized(CASE, source)
    assert made.train_data.shape == (STEPS * 8 + 4, 3, 10, 10)
    assert made.train_data.dtype == np.uint8
    assert (made.train_data[:, 0] == made.train_data[:, 2]).all()
    assert (made.train_labels == source.train_labels[: STEPS * 8 + 4]).all()
    assert made.classes == source.classes


def test_a_round_is_an_epoch_of_each_by_the_clock_and_the_first_is_not_timed(
    source: Source,
) -> None:
    ticks = itertools.count()
    group = measure_fit(CASE, Setting(repeats=2), source, clock=lambda: float(next(ticks)))
    assert [m.name for m in group.measurements] == ON_A_CPU
    assert {m.seconds for m in group.measurements} == {(1.0, 1.0)}
    assert next(ticks) == 2 * 2 * len(ON_A_CPU)
    assert group.parameters == sum(
        p.numel()
        for p in build_model(
            "digits_cnn", in_channels=3, num_classes=10, image_size=10, width=4
        ).parameters()
    )
    frame = build_table([group])
    assert set(frame["time_ratio"]) == {1.0}
    text = to_markdown(frame)
    assert "## A whole epoch: digits_cnn width 4 10×10×3, n = 8, m = 4" in text
    assert "| fit-bf16-channels_last       | 1.00× | 1.00–1.00 |          1 |       64 |" in text


def test_code_of_before_takes_turns(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of now stands in for it, and trains what the row of now trains."""
    before = Path(__file__).parents[4]
    row, of_before = Row(Beta(1.0)), Row(Beta(1.0), before=before)
    monkeypatch.setattr(whole_fit, "rows", lambda device, before: [row, of_before])
    group = measure_fit(CASE, Setting(repeats=1), source, before=before)
    assert [m.name for m in group.measurements] == ["fit", f"fit-of-{before.name}"]
    assert [m.error for m in group.measurements] == [None, None]
    assert all(m.seconds[0] > 0 for m in group.measurements)


def test_code_of_before_that_fails_says_why(source: Source, tmp_path: Path) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "__init__.py").write_text("raise ImportError('older than that')")
    config = TrainingConfig("digits", "digits_cnn", Beta(1.0))
    epochs = earlier_epochs(tmp_path, config, source, device="cpu", threads=1)
    with pytest.raises(RuntimeError, match="failed: ImportError: older than that"):
        next(epochs)
    epochs.close()
    with pytest.raises(ValueError, match=r"has no core/training/training\.py; name a working tree"):
        check_tree(tmp_path)


def test_the_plain_loop_learns(source: Source) -> None:
    torch.manual_seed(0)
    x, y = torch.from_numpy(source.train_data[:300]), torch.from_numpy(source.train_labels[:300])
    model = build_model("digits_cnn", in_channels=1, num_classes=10, image_size=8)

    def loss() -> float:
        with torch.no_grad():
            return float(F.cross_entropy(model((x - x.float().mean()) / x.float().std()), y))

    for bf16 in (False, True):
        before = loss()
        epochs: Iterator[None] = plain_epochs(model, x, y, x[:20], epochs=4, batch=32, bf16=bf16)
        assert sum(1 for _ in epochs) == 4
        assert loss() < 0.9 * before


def test_a_training_that_fails_costs_its_own_row_alone(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Training) -> None:
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(Training, "epoch", broken)
    group = measure_fit(CASE, Setting(repeats=1), source)
    assert [len(m.seconds) for m in group.measurements[:3]] == [1, 1, 0]
    assert {m.error for m in group.measurements[2:]} == {"out of memory"}
    text = to_markdown(build_table([group]))
    assert "| fit                          |     – |         – |          – |        – |" in text
    assert "metamixup (digits_cnn width 4 10×10×3, n = 8, m = 4): out of memory." in text

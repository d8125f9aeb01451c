"""How GPU memory is measured, shared and told. No GPU is needed: torch's figures are made up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from core.meta.reading import DEFAULT, PAPER
from core.policies import Beta, Fixed, Frozen, LearnedConfig, NoMix, ScoresConfig
from core.training.config import TrainingConfig
from hpo.cells.cell import Cell
from hpo.cells.gpu_use import CONTEXT_BYTES, GpuUse
from hpo.cells.record import CellRecord
from hpo.cluster.gpu_memory import gpu_meter, to_measure
from hpo.cluster.trained_policies import packed_cells
from hpo.report.preamble import memory_lines
from hpo.search import Float
from hpo.search.protocol import SearchSettings
from hpo.search.strategies import Evolved, Listed, Sampled
from hpo.study.plan import Plan
from hpo.study.recipes import FrozenFrom, Searched
from hpo.study.rows import Row, StudyRow

GIB = 2**30
MakeRecord = Callable[..., CellRecord]


class Cuda:
    """Of torch.cuda what the meter asks, with what it was called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, total: int, peak: int):
        self.calls: list[Any] = []
        self.peak = 10**15  # of the training before
        for name in ("empty_cache", "reset_peak_memory_stats", "set_per_process_memory_fraction"):
            monkeypatch.setattr(torch.cuda, name, self._note(name, peak))
        properties = SimpleNamespace(total_memory=total)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: self.peak)

    def _note(self, name: str, peak: int) -> Callable[..., None]:
        def note(*arguments: Any) -> None:
            self.calls.append((name, *arguments))
            if name == "reset_peak_memory_stats":
                self.peak = peak

        return note


@pytest.mark.parametrize(("share", "limit"), [(1.0, 1.0), (0.5, 0.4), (0.25, 0.15), (0.05, 0.0)])
def test_a_training_is_measured_and_held_to_its_share(
    share: float, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = Cuda(monkeypatch, total=10 * GIB, peak=2 * GIB)
    with gpu_meter("cuda", share) as used:
        assert used() == GpuUse(2 * GIB + CONTEXT_BYTES, 10 * GIB, share)
    calls = {name: rest for name, *rest in cuda.calls}
    assert list(calls)[:2] == ["empty_cache", "reset_peak_memory_stats"]
    fraction, device = calls["set_per_process_memory_fraction"]
    assert fraction == pytest.approx(limit)
    assert device == 0


def test_on_the_cpu_nothing_is_asked_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "cuda", None)
    with gpu_meter("cpu", 1.0) as used:
        assert used() is None


@pytest.mark.parametrize(
    ("peak", "share"),
    # With the margin: 11 % of it leaves room for nine, 45 % for two, 46 % for one; and none.
    [(1, 0.0001), (10, 0.1112), (45, 0.5), (46, 1.0), (89, 1.0), (300, 1.0)],
)
def test_the_safe_share_holds_the_peak_and_a_margin(peak: int, share: float) -> None:
    use = GpuUse(peak, 10_000 if peak == 1 else 100, 1.0)
    assert use.safe_share == pytest.approx(share, abs=2e-4 if peak == 1 else 0)
    number = int(1 / use.safe_share)
    if peak < 90:
        assert number * 1.1 * use.peak <= use.total
    assert number * use.safe_share <= 1


def test_what_was_used_is_kept_as_text() -> None:
    use = GpuUse(123, 456, 0.25)
    assert GpuUse.from_environment(use.to_environment()) == use
    assert GpuUse.from_environment({"device": "cpu"}) is None


def test_one_of_each_kind_is_measured_for_an_epoch() -> None:
    base = TrainingConfig("digits", "cnn", NoMix(), epochs=9, train_size=100)
    policies = [
        Beta(alpha=1.0),
        Beta(alpha=2.0),
        Fixed(lam=0.1),
        LearnedConfig(reading=DEFAULT),
        LearnedConfig(reading=PAPER),
        LearnedConfig(reading=DEFAULT, last_blocks=1),
        Frozen(quantiles=(0.0, 1.0)),
        Frozen(quantiles=(0.0, 0.5)),
    ]
    cells = [
        Cell(str(number), replace(base, policy=policy, seed=seed))
        for number, policy in enumerate(policies)
        for seed in (0, 1)
    ]
    measured = to_measure(cells)
    assert [cell.method for cell in measured] == ["0", "2", "3", "4", "5", "6"]
    assert {cell.training.epochs for cell in measured} == {1}
    assert {cell.training.train_size for cell in measured} == {100}
    wider = [Cell("wide", replace(base, width=8)), Cell("large", replace(base, batch_size=300))]
    assert len(to_measure([Cell("none", base), *wider])) == 3
    assert [cell.method for cell in to_measure(cells, known=cells[4:])] == ["0"]


def test_what_rows_that_wait_will_train_is_measured_too() -> None:
    """Learned policies inside a search or a list, with the row's own settings; a population."""
    base = {"digits": TrainingConfig("digits", "cnn", NoMix(), epochs=9, meta_size=60)}
    learned, space = LearnedConfig(), {"lr": Float(0.01, 0.1)}

    def row(key: str, recipe: Any, **settings: Any) -> StudyRow:
        return StudyRow(Row(key, key, key, "extra", search=f"{key}-search"), recipe, settings)

    rows = [
        row("none", NoMix()),
        row("searched", Searched(learned, space), meta_size=30),
        row("sampled", Sampled(ScoresConfig(), {"weight_decay": Float(0.0, 0.1)})),
        row("listed", Listed((Beta(alpha=1.0), LearnedConfig(permute=True)))),
        row("population", Evolved()),
        row("frozen", FrozenFrom("listed-source")),
        row("listed-source", learned),
    ]
    plan = Plan("study", rows, ["digits"], range(2), base, SearchSettings(trials=3), budget=5.0)
    measured = {(c.method, c.training.policy): c for c in to_measure(packed_cells(plan))}
    assert [method for method, _ in measured] == [
        "listed-source", "none", "searched", "sampled", "listed", "listed", "population",
    ]  # fmt: skip
    assert measured["searched", learned].training.meta_size == 30
    assert measured["sampled", ScoresConfig()].training.meta_size == 60
    assert ("listed", LearnedConfig(permute=True)) in measured
    [population] = [c.population for c in measured.values() if c.population is not None]
    assert population.members == 5


def test_the_report_tells_the_largest_and_what_would_be_safe(make_record: MakeRecord) -> None:
    assert memory_lines([make_record()]) == []

    def used(method: str, peak: int, share: float) -> CellRecord:
        environment = GpuUse(peak * GIB, 40 * GIB, share).to_environment()
        return replace(make_record(method), environment=environment)

    records = [used("none", 3, 0.5), make_record(), used("metamixup", 9, 0.5)]
    assert memory_lines(records) == [
        "GPU memory: a cell took at most 9.0 of 40.0 GiB (metamixup on digits); --gpus-per-cell "
        "0.25 is safe, 4 to a GPU."
    ]
    packed = [used("none", 3, 0.2), used("metamixup", 9, 0.2)]
    assert memory_lines(packed)[1:] == [
        "GPU memory: more than their share was taken by metamixup; cells that are packed so may "
        "fail for want of memory: raise --gpus-per-cell."
    ]

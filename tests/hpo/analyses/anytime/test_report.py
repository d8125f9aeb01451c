from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.image import imread

from core.policies import Fixed, LearnedConfig, NoMix
from core.training.config import TrainingConfig
from hpo.analyses.anytime.curves import COLUMNS, Point, compare
from hpo.analyses.anytime.figure import anytime_figure, band
from hpo.analyses.anytime.report import anytime_markdown, write_anytime_report
from hpo.cells.cell import Cell
from hpo.cells.record import CellRecord
from hpo.search import drive
from hpo.search.protocol import SearchSettings
from hpo.search.strategies import Listed
from hpo.study.plan import Plan, SearchKey
from hpo.study.rows import Row, StudyRow
from tests.support.results import result

NAN = float("nan")
Curves = dict[SearchKey, list[Point]]
BASE = TrainingConfig("digits", "cnn", NoMix(), epochs=2)
LEARNED = Listed((LearnedConfig(),))
GRID = Listed(tuple(Fixed(lam=lam) for lam in (0.1, 0.2, 0.3)))
LABELS = {"metamixup": "Learned", "grid": "Grid", "nothing": "Nothing"}


def make_plan() -> Plan:
    rows = [
        StudyRow(Row("metamixup", "Learned", "once", "learned"), LEARNED),
        StudyRow(Row("grid", "Grid", "three", "fixed"), GRID),
    ]
    datasets = ["digits", "mnist"]
    base = {name: replace(BASE, dataset=name) for name in datasets}
    return Plan("contrast", rows, datasets, [0, 1], base, SearchSettings(), 5.0)


def records(plan: Plan) -> list[CellRecord]:
    trained: list[CellRecord] = []

    def recorded(cell: Cell) -> CellRecord:
        lam = getattr(cell.training.policy, "lam", 0.15)
        values: dict[str, Any] = {
            "val_error": 100 * abs(lam - 0.2) + cell.seed,
            "test_error": 10 + 100 * abs(lam - 0.2) + 2 * cell.seed,
            "train_seconds": 3.0,
            "samples_seen": 50,
            "epochs": 2,
            "history": [],
        }
        trained.append(CellRecord(cell, "finished", result(**values), None, {}))
        return trained[-1]

    for search in plan.open_searches().values():
        drive.replay(search, recorded)
    return trained


def test_files_text_and_summary_say_the_same(tmp_path: Path) -> None:
    plan = make_plan()
    output = tmp_path / "out"
    report = write_anytime_report(plan, records(plan), output, "What was run.")
    names = ("contrast.csv", "contrast.md", "contrast.png", "contrast-budgets.csv")
    assert report.files == [output / name for name in names]
    table = pd.read_csv(report.files[0])
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 2 * 2 * (1 + 3)
    last = table[(table["strategy"] == "grid") & (table["dataset"] == "mnist")].iloc[-1]
    assert list(last) == ["mnist", "grid", 1, 3.0, 9.0, 150, 1.0, 12.0]
    text = report.files[1].read_text()
    assert text.startswith("# contrast\n\nWhat was run.\n\n## digits\n")
    assert report.markdown in text
    assert imread(report.files[2]).shape[0] > 500
    # Errors 10 and 12 of the grid at λ = 0.2, 15 and 17 of the learned one: half-widths of the 95 %
    # interval are t(1)·s/√2 = 12.706·1.
    [grid] = [s for s in report.summary if (s.method, s.dataset) == ("grid", "digits")]
    assert (grid.setting, grid.n_seeds, grid.mean_error) == ("three", 2, 11.0)
    assert (grid.train_seconds, grid.samples_seen) == (9.0, 150.0)
    assert grid.ci_high == pytest.approx(11 + 12.706, abs=1e-3)
    cells = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| Grid")]
    assert [cell.strip() for cell in cells[0]] == [
        "Grid",
        "21.00 ± 12.71",  # after 1.25 units λ = 0.1 alone: 20 and 22
        "11.00 ± 12.71",
        "11.00 ± 12.71",
        "2",
        "−5.00",
        "–",
    ]


def test_what_cannot_be_told_is_a_dash() -> None:
    results: Curves = {
        ("metamixup", "digits", 0): [Point(4.5, 1, 1, 5.0, 6.0)],
        ("grid", "digits", 0): [Point(1.0, 1, 1, 5.0, 8.0)],
        ("nothing", "digits", 0): [Point(1.0, 1, 1)],
    }
    text = anytime_markdown(compare(results, 6.0), LABELS, 6.0)
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    header, _, learned, grid, nothing = lines
    assert header == [
        "strategy", "at 1.5 units", "at 3 units", "at 6 units", "n", "− Learned", "p (Holm)"
    ]  # fmt: skip
    assert learned == ["Learned", "–", "–", "6.00", "1", "–", "–"]
    assert grid == ["Grid", "8.00", "8.00", "8.00", "1", "+2.00", "–"]
    assert nothing == ["Nothing", "–", "–", "–", "0", "–", "–"]


def test_a_band_starts_when_every_seed_has_an_incumbent_and_is_carried_on() -> None:
    seeds = [
        [Point(1, 2.0, 10, NAN, NAN), Point(2, 4.0, 20, 5.0, 10.0), Point(3, 6.0, 30, 4.0, 6.0)],
        [Point(1, 3.0, 15, 5.0, 12.0), Point(2, 5.0, 25, 4.0, 8.0)],
        [],  # all its trainings failed
    ]
    steps = band(seeds, "train_seconds", 9.0)
    assert [(place, mean) for place, mean, *_ in steps] == [
        (4.0, 11.0),  # 10 and 12
        (5.0, 9.0),  # 10 and 8
        (6.0, 7.0),  # 6 and 8
        (9.0, 7.0),
    ]
    for _, mean, low, high in steps:
        assert high - mean == pytest.approx(mean - low) == pytest.approx(12.706, abs=1e-3)
    assert [place for place, *_ in band(seeds, "samples_seen", 40)] == [20, 25, 30, 40]
    assert band([[Point(1, 1, 1)], []], "train_seconds", 2.0) == []
    assert math.isnan(band([seeds[0]], "train_seconds", 9.0)[0][2])  # one seed: no interval


def test_the_figure_has_a_step_line_for_each_strategy_and_cost() -> None:
    results: Curves = {
        ("metamixup", "digits", 0): [Point(4.5, 9.0, 240, 5.0, 6.0)],
        ("metamixup", "digits", 1): [Point(4.5, 10.0, 240, 5.0, 7.0)],
        ("grid", "digits", 0): [Point(1, 2.0, 80, 5.0, 8.0), Point(2, 12.0, 160, 4.0, 5.0)],
        ("grid", "digits", 1): [Point(1, 3.0, 80, 5.0, 8.0)],
        ("nothing", "digits", 0): [],
    }
    axes = anytime_figure(results, LABELS).axes
    assert [ax.get_xlabel() for ax in axes] == [
        "training time (s)",
        "samples sent forward in training",
    ]
    labels = [line.get_label() for line in axes[0].lines]
    learned, grid, nothing = (axes[0].lines[labels.index(label)] for label in LABELS.values())
    assert list(learned.get_xdata()) == [10.0, 12.0]
    assert list(learned.get_ydata()) == [6.5, 6.5]
    assert list(grid.get_xdata()) == [3.0, 12.0, 12.0]
    assert list(grid.get_ydata()) == [8.0, 6.5, 6.5]
    assert list(nothing.get_xdata()) == []
    assert learned.get_drawstyle() == "steps-post"
    # Two seeds each: an interval beside the end for both, a band for the reference.
    assert len(axes[0].containers) == 2
    [band_of_learned] = [c for c in axes[0].collections if isinstance(c, PolyCollection)]
    assert band_of_learned.get_paths()[0].vertices[:, 0].min() == 10.0
    in_samples = axes[1].lines[[line.get_label() for line in axes[1].lines].index("Grid")]
    assert list(in_samples.get_xdata()) == [80, 160, 240]
    assert axes[0].get_ylim()[0] < 6.5 < axes[0].get_ylim()[1]

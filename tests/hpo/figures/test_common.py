from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from hpo.figures import common
from hpo.figures.rows import METAMIXUP, METAMIXUP_PAPER, MIXUP, NONE
from hpo.outcome import Outcome
from hpo.statistics import mean_interval
from studies import table2


def test_rows_are_those_of_table_2() -> None:
    """So that a figure finds the cells that the table has trained."""
    table = {row.row.key: row for row in table2.rows()}
    for row in (NONE, MIXUP, METAMIXUP, METAMIXUP_PAPER):
        assert table[row.row.key].policy == row.policy
        assert table[row.row.key].training == row.training == {}


def test_results_are_the_finished_final_ones_of_a_row(
    make_outcome: Callable[..., Outcome],
) -> None:
    given = [
        {"test_error": 1.0},
        {"status": "diverged"},
        {"purpose": "search"},
        {"test_error": 4.0},
    ]
    outcome = make_outcome([MIXUP, NONE], {"beta-1": given}, ["digits", "mnist"])
    found = common.results_of(outcome, "mnist", MIXUP)
    assert {seed: result["test_error"] for seed, result in found.items()} == {0: 1.0, 3: 4.0}
    assert common.results_of(outcome, "mnist", NONE) == {}


def test_intervals_by_hand() -> None:
    """Two values 1 apart: half the interval is t(1) · s / √2 = 12.706 · 0.5."""
    first, second = common.intervals([[1.0, 5.0], [2.0, 5.0]])
    assert (first.mean, second.mean) == (1.5, 5.0)
    assert first.high - first.mean == pytest.approx(12.7062 / 2, rel=1e-4)
    assert common.told(first, 1) == "1.5 ± 6.4"
    assert common.told(mean_interval([2.0])) == "2.000"
    assert common.told(mean_interval([])) == "–"


def test_differences_are_paired_over_shared_seeds() -> None:
    """Differences 1, 1.1, 0.9: t = 1 / (0.1 / √3) = 17.3, p = 0.0033; half 4.303 · 0.0577."""
    first = {0: 2.0, 1: 3.1, 2: 4.9, 9: 100.0}
    second = {0: 1.0, 1: 2.0, 2: 4.0, 7: -50.0}
    assert common.compared(first, second, 2) == "+1.00 [+0.75, +1.25], p = 0.003, n = 3"
    assert common.differs(first, second) == 1
    assert common.differs(second, first) == -1
    assert common.compared({0: 2.0}, {0: 3.0}, 1) == "−1.0, p = –, n = 1"
    assert common.compared({0: 2.0}, {1: 3.0}) == "no seed in common"
    assert common.differs({0: 0.0, 1: 2.0}, {0: 1.0, 1: 0.0}) == 0
    assert common.differs({}, {}) == 0


def test_what_is_written(make_outcome: Callable[..., Outcome], tmp_path: Path) -> None:
    frame = pd.DataFrame({"mean": [1 / 3, math.nan]})
    figure = common.canvas(2, 1)
    figure.subplots()
    extra = common.written(make_outcome([NONE], {}), frame, figure, "## Said\n")
    assert [path.name for path in extra.files] == ["figure.csv", "figure.png", "figure.md"]
    assert extra.markdown == "## Said\n"
    assert (tmp_path / "figure.csv").read_text() == 'mean\n0.333333\n""\n'
    assert (tmp_path / "figure.md").read_text() == "# figure\n\n![figure](figure.png)\n\n## Said\n"
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from hpo.report import contrasts, figure_files
from hpo.report.outcome import Outcome
from hpo.report.style import canvas
from hpo.study.named_rows import METAMIXUP, METAMIXUP_PAPER, MIXUP, NONE
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
    actual = outcome.results("mnist", MIXUP)
    assert {seed: result.test_error for seed, result in actual.items()} == {0: 1.0, 3: 4.0}
    assert outcome.results("mnist", NONE) == {}


def test_intervals_by_hand() -> None:
    """Two values 1 apart: half the interval is t(1) · s / √2 = 12.706 · 0.5."""
    line = figure_files.mean_line("mnist", MIXUP, [1.0, 2.0], epoch=3)
    assert line.pop("ci_high") - 1.5 == pytest.approx(12.7062 / 2, rel=1e-4)
    assert 1.5 - line.pop("ci_low") == pytest.approx(12.7062 / 2, rel=1e-4)
    named = {"dataset": "mnist", "method": "beta-1", "label": MIXUP.row.label, "epoch": 3}
    assert line == {**named, "n_seeds": 2, "mean": 1.5}
    assert contrasts.mean_text([1.0, 2.0], 1) == "1.5 ± 6.4"
    assert contrasts.mean_text([2.0]) == "2.000"
    assert contrasts.mean_text([]) == contrasts.mean_text([float("nan")]) == "–"


def test_differences_are_paired_over_shared_seeds_and_adjusted_together() -> None:
    """Differences 1, 1.1, 0.9: t = 1 / (0.1 / √3) = 17.3, p = 0.0033; half 4.303 · 0.0577.

    Differences 1, −1, 0: p is 1. Of two tests the smaller p counts twice.
    """
    first = {0: 2.0, 1: 3.1, 2: 4.9, 9: 100.0}
    second = {0: 1.0, 1: 2.0, 2: 4.0, 7: -50.0}
    actual = contrasts.contrasts(
        {
            "above": (first, second),
            "below": (second, first),
            "equal": ({0: 1.0, 1: 2.0, 2: 0.0}, {0: 0.0, 1: 3.0, 2: 0.0}),
            "alone": ({0: 2.0}, {0: 3.0}),
            "apart": ({0: 2.0}, {1: 3.0}),
        }
    )
    p = 0.0033185  # of t = 17.32 with two degrees of freedom
    assert actual["above"].p_holm == pytest.approx(3 * p, rel=1e-3)
    assert actual["equal"].p_holm == 1.0
    assert actual["above"].text(2) == "+1.00 [+0.75, +1.25], p (Holm) = 0.010, n = 3"
    assert actual["alone"].text(1) == "−1.0, no test, n = 1"
    assert actual["apart"].text() == "no seed in common"
    assert {key: contrast.direction for key, contrast in actual.items()} == {
        "above": 1, "below": -1, "equal": 0, "alone": 0, "apart": 0,
    }  # fmt: skip
    assert contrasts.contrasts({}) == {}


def test_what_is_told_apart_alone_may_not_be_among_many() -> None:
    """p of 1, 1.4, 0.6 is 0.0496·… below 0.05 alone, and above it as one of two."""
    pair = ({0: 1.0, 1: 1.4, 2: 0.6}, dict.fromkeys(range(3), 0.0))
    alone = contrasts.contrasts({0: pair})[0]
    one_of_two = contrasts.contrasts({0: pair, 1: pair})[0]
    assert (alone.direction, one_of_two.direction) == (1, 0)
    assert one_of_two.p_holm == pytest.approx(2 * alone.p_holm)


def test_a_small_p_is_told_as_such() -> None:
    values = {seed: 1.0 + seed * 1e-6 for seed in range(3)}
    (actual,) = contrasts.contrasts({0: (values, dict.fromkeys(values, 0.0))}).values()
    assert actual.text(1) == "+1.0 [+1.0, +1.0], p (Holm) < 0.001, n = 3"


@pytest.mark.parametrize(
    ("directions", "said"),
    [
        ([1, 1], "holds"),
        ([1, 0], "holds for one"),
        ([1, -1], "holds for one and not the other"),
        ([0, 0], "is not supported"),
        ([0, -1], "is contradicted by one"),
        ([-1, -1], "is contradicted"),
        ([1], "holds"),
        ([0], "is not supported"),
        ([-1], "is contradicted"),
    ],
)
def test_what_comparisons_say_of_a_claim(directions: list[int], said: str) -> None:
    assert contrasts.verdict(directions) == said


def test_what_is_written(make_outcome: Callable[..., Outcome], tmp_path: Path) -> None:
    frame = pd.DataFrame({"mean": [1 / 3, math.nan]})
    figure = canvas(2, 1)
    figure.subplots()
    extra = figure_files.written(make_outcome([NONE], {}), frame, figure, "## Said\n")
    assert [path.name for path in extra.files] == ["figure.csv", "figure.png", "figure.md"]
    assert extra.markdown == "## Said\n"
    assert (tmp_path / "figure.csv").read_text() == 'mean\n0.333333\n""\n'
    assert (tmp_path / "figure.md").read_text() == "# figure\n\n![figure](figure.png)\n\n## Said\n"
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"

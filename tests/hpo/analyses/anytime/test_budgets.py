"""Differences at each budget against those written out by hand."""

from __future__ import annotations

import math

import pytest

from core.policies import Beta, Fixed, NoMix
from core.training.config import TrainingConfig
from hpo.analyses.anytime.budgets import COLUMNS, budget_markdown, budget_table
from hpo.analyses.anytime.curves import Point
from hpo.search.protocol import SearchSettings
from hpo.search.strategies import Listed
from hpo.study.plan import Plan
from hpo.study.rows import Row, StudyRow

NAN = float("nan")
ROWS = [
    StudyRow(Row("once", "Once", "", "learned"), Listed((Beta(1.0),))),
    StudyRow(Row("search", "Search", "", "beta"), Listed((Fixed(0.1), Fixed(0.2)))),
    StudyRow(Row("idle", "Idle", "", "beta"), Listed((Fixed(0.1), Fixed(0.2)))),
]
BASE = {"digits": TrainingConfig("digits", "cnn", NoMix(), epochs=2)}
PLAN = Plan("contrast", ROWS, ["digits"], [0, 1], BASE, SearchSettings(), 5.0)
FOUND = {
    ("once", "digits", 0): [Point(1.2, 1, 1, 5.0, 6.0)],
    ("once", "digits", 1): [Point(1.2, 1, 1, 5.0, 8.0)],
    ("search", "digits", 0): [
        Point(1, 1, 1, 9.0, 9.0),
        Point(2, 1, 1, 8.0, 7.0),
        Point(3, 1, 1, 8.0, 7.0),  # no new incumbent
    ],
    ("search", "digits", 1): [Point(1, 1, 1, NAN, NAN), Point(2.5, 1, 1, 3.0, 5.0)],
    ("idle", "digits", 0): [Point(1, 1, 1, NAN, NAN)],
    ("idle", "digits", 1): [],
}


def test_every_budget_at_which_an_incumbent_changes() -> None:
    """At 1.2 and 2 the search has an incumbent for one seed: 6 − 9, 6 − 7; at 2.5 for both: −1 and
    3, of mean 1 and half-width 12.706 · 2."""
    table = budget_table(PLAN, FOUND)
    assert tuple(table.columns) == COLUMNS
    assert list(table["against"].unique()) == ["search"]
    assert list(table["units"]) == [1.2, 2.0, 2.5]
    assert list(table["n_seeds"]) == [1, 1, 2]
    assert list(table["difference"]) == [-3.0, -1.0, 1.0]
    assert math.isnan(table["ci_low"][0])
    assert table["ci_high"][2] == pytest.approx(1 + 2 * 12.7062, abs=1e-3)
    text = budget_markdown(table, {row.row.key: row.row.label for row in ROWS})
    (line,) = [line for line in text.splitlines() if line.startswith("| digits")]
    assert [cell.strip() for cell in line.split("|")[1:-1]] == [
        "digits", "Once", "Search", "1.2 to 2.5", "2 of 3", "+1.00 [−24.41, +26.41]", "2.5",
    ]  # fmt: skip


def test_a_place_with_many_digits_shows_the_change_that_makes_it() -> None:
    """After a third of a training, 4/3, the search has 5; seed 1 gets there by another sum."""
    found = {
        key: trained
        for seed, third in ((0, 4 / 3), (1, 4 / 3 + 1e-12))
        for key, trained in {
            ("once", "digits", seed): [Point(1.2, 1, 1, 5.0, 6.0 + seed)],
            ("search", "digits", seed): [
                Point(1, 1, 1, 9.0, 9.0),
                Point(third, 1, 1, 3.0, 5.0 - seed),
            ],
        }.items()
    }
    table = budget_table(PLAN, found)
    assert list(table["units"]) == pytest.approx([1.2, 4 / 3])
    assert list(table["difference"]) == [-2.5, 2.0]


def test_nothing_is_said_where_nothing_trains_once_or_has_ended() -> None:
    searches = Plan("contrast", ROWS[1:], ["digits"], [0, 1], BASE, SearchSettings(), 5.0)
    waiting = {key: trained for key, trained in FOUND.items() if key[0] != "once"}
    for table in (budget_table(searches, FOUND), budget_table(PLAN, waiting)):
        assert table.empty
        assert budget_markdown(table, {}) == ""

"""Curves and comparisons against what is computed by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from scipy import stats

from core.policies import Fixed, LearnedConfig, NoMix
from core.training.config import TrainingConfig
from hpo.analyses.anytime.curves import (
    Point,
    compare,
    curve,
    curve_table,
    curves,
    errors_at,
    points,
    replay,
    standing,
)
from hpo.cells.cell import Cell
from hpo.cells.population import Population
from hpo.cells.record import CellRecord
from hpo.search import drive
from hpo.search.protocol import SearchSettings
from hpo.search.strategies import Listed
from hpo.study.plan import Plan, SearchKey
from hpo.study.rows import Row, StudyRow
from tests.support.results import result

NAN = float("nan")
BASE = TrainingConfig("digits", "cnn", NoMix(), epochs=4)
FIXED = tuple(Fixed(lam=lam) for lam in (0.1, 0.2, 0.3, 0.4))
Curves = dict[SearchKey, list[Point]]


def told(found: list[Point]) -> list[tuple[float, ...]]:
    return [(p.units, p.train_seconds, p.samples_seen, p.val_error, p.test_error) for p in found]


def same(found: list[Point], expected: list[tuple[float, ...]]) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(told(found), expected, strict=True):
        assert mine == pytest.approx(theirs, nan_ok=True)


# Curves


def test_the_incumbent_is_the_lowest_validation_error_so_far() -> None:
    """A training that was stopped costs and gives nothing; a better test error selects nothing;
    of equals the first stays; what ends beyond 3 units is left out, and all that comes after."""
    trained = [
        Point(0.25, 1.0, 100.0),
        Point(1.0, 4.0, 400.0, 20.0, 31.0),
        Point(0.5, 2.0, 200.0, 25.0, 1.0),
        Point(0.75, 3.0, 300.0, 20.0, 2.0),
        Point(0.5, 5.0, 200.0, 15.0, 26.0),
        Point(0.1, 1.0, 40.0, 1.0, 1.0),
    ]
    expected = [
        (0.25, 1.0, 100.0, NAN, NAN),
        (1.25, 5.0, 500.0, 20.0, 31.0),
        (1.75, 7.0, 700.0, 20.0, 31.0),
        (2.5, 10.0, 1000.0, 20.0, 31.0),
        (3.0, 15.0, 1200.0, 15.0, 26.0),
    ]
    same(curve(trained, 3.0), expected)
    same(curve(trained, 2.99), expected[:-1])
    assert curve(trained, 0.2) == []


@pytest.mark.parametrize("ties_by_loss", [True, False])
def test_of_equal_errors_the_search_says_which_is_taken(ties_by_loss: bool) -> None:
    """As `SpaceSearch.best` takes it; a lower loss at a higher error takes nothing."""
    losses = [(20.0, 1.0, 0.7), (20.0, 2.0, 0.6), (20.0, 3.0, 0.9), (30.0, 4.0, 0.1)]
    trained = [Point(1.0, 1.0, 1.0, *each) for each in losses]
    taken = [point.test_error for point in curve(trained, 9.0, ties_by_loss=ties_by_loss)]
    assert taken == ([1.0, 2.0, 2.0, 2.0] if ties_by_loss else [1.0, 1.0, 1.0, 1.0])


def test_sums_of_units_are_within_a_budget_that_they_reach() -> None:
    assert 0.1 + 0.1 + 0.1 > 0.3
    assert len(curve([Point(0.1, 1.0, 1.0, 5.0, 5.0)] * 3, 0.3)) == 3


def test_where_a_curve_stands() -> None:
    actual = [Point(1.0, 1, 1), Point(2.0, 2, 2, 9.0, 8.0), Point(4.0, 4, 4, 5.0, 6.0)]
    at = [standing(actual, spent) for spent in (0.5, 1.5, 2.0, 3.9, 4.0, 99.0)]
    assert at == pytest.approx([NAN, NAN, 8.0, 8.0, 6.0, 6.0], nan_ok=True)
    assert math.isnan(standing([], 1.0))


def test_what_a_training_leaves(make_record: Callable[..., CellRecord]) -> None:
    finished = make_record("a", epochs=2, train_seconds=6.0, samples_seen=800, val_error=7.0)
    same(points(finished), [(1.0, 6.0, 800, 7.0, 5.0)])
    learned = make_record("a", epochs=2, policy=LearnedConfig(), val_error=7.0)
    assert points(learned)[0].units == 4.5
    # Of four epochs planned one was trained; of the diverged one the second failed.
    for status, units in (("pruned", 0.25), ("diverged", 0.5)):
        short = make_record("a", epochs=4, status=status, train_seconds=2.0, samples_seen=100)
        short = replace(short, result=replace(short.result, epochs=1))
        same(points(short), [(units, 2.0, 100, NAN, NAN)])


def test_a_population_stands_anew_after_each_segment() -> None:
    segments = [
        {"epochs_trained": 4.0, "train_seconds": 8.0, "samples_seen": 40.0},
        {"epochs_trained": 10.0, "train_seconds": 20.0, "samples_seen": 100.0},
    ]
    for segment, errors in zip(segments, ((30.0, 33.0), (20.0, 21.0)), strict=True):
        segment["val_error"], segment["test_error"] = errors
    cell = Cell("pbt", BASE, "search", Population(members=3))
    ended = result(history=segments, epochs=10, train_seconds=20.0, samples_seen=100, lineage=[])
    record = CellRecord(cell, "finished", ended, None, {})
    same(points(record), [(1.0, 8.0, 40.0, 30.0, 33.0), (1.5, 12.0, 60.0, 20.0, 21.0)])
    same(points(replace(record, status="diverged")), [(2.75, 20.0, 100, NAN, NAN)])


# From a plan and its records


def make_plan(budget: float = 3.0) -> Plan:
    rows = [
        StudyRow(Row("short", "s", "", "fixed"), Listed(FIXED[:1])),
        StudyRow(Row("grid", "g", "", "fixed"), Listed(FIXED)),
    ]
    return Plan("contrast", rows, ["digits"], [0, 1], {"digits": BASE}, SearchSettings(), budget)


def record_of(cell: Cell, status: Any = "finished") -> CellRecord:
    """λ = 0.3 has the lowest validation error, and not the lowest test error."""
    assert isinstance(cell.training.policy, Fixed)
    lam = cell.training.policy.lam
    errors = {"val_error": abs(100 * lam - 30) + cell.seed, "test_error": 100 * lam + cell.seed}
    history = [{"val_loss": 1 - lam}]
    cost = {"train_seconds": 2.0, "samples_seen": 10, "epochs": 4, "history": history}
    return CellRecord(cell, status, result(**errors, **cost), None, {})


def trained(plan: Plan) -> list[CellRecord]:
    records: list[CellRecord] = []

    def recorded(cell: Cell) -> CellRecord:
        records.append(record_of(cell))
        return records[-1]

    for search in plan.open_searches().values():
        drive.replay(search, recorded)
    return sorted(records, key=lambda record: record.cell.id)  # as a store lists them


def test_curves_follow_the_order_of_the_search_whatever_the_order_of_the_records() -> None:
    plan = make_plan()
    actual = curves(plan, trained(plan))
    assert list(actual) == [(m, "digits", s) for m in ("short", "grid") for s in (0, 1)]
    assert [p.test_error for p in actual["grid", "digits", 1]] == pytest.approx([11, 21, 31])
    assert [p.units for p in actual["grid", "digits", 1]] == [1, 2, 3]
    assert [p.test_error for p in actual["short", "digits", 0]] == pytest.approx([10])
    table = curve_table(actual)
    assert list(table["strategy"]) == ["short"] * 2 + ["grid"] * 6
    assert list(table["train_seconds"]) == [2, 2, 2, 4, 6, 2, 4, 6]
    assert list(table.iloc[-1]) == ["digits", "grid", 1, 3.0, 6.0, 30, 1.0, pytest.approx(31.0)]


def test_curves_break_ties_as_the_search_of_their_plan() -> None:
    """λ = 0.2 and 0.4 are as good; the latter has the lower loss."""
    plan = make_plan(4.0)
    rows = [StudyRow(Row("two", "t", "", "fixed"), Listed(FIXED[1::2]))]
    for by_loss, last in ((False, 20), (True, 40)):
        search = SearchSettings(ties_by_loss=by_loss)
        tied = replace(plan, rows=rows, search=search)
        found = curves(tied, trained(tied))["two", "digits", 0]
        assert found[-1].test_error == pytest.approx(last)


def test_a_curve_ends_where_a_record_is_missing_or_crashed() -> None:
    plan = make_plan()
    key = "grid", "digits", 0
    records = {r.cell.id: r for r in trained(plan)}
    order = [r.cell.id for r in replay(plan.open_searches()[key], records)]
    assert len(order) == 3
    missing = {i: r for i, r in records.items() if i != order[1]}
    assert len(replay(plan.open_searches()[key], missing)) == 1
    crashed = records | {order[2]: record_of(records[order[2]].cell, "crashed")}
    assert len(replay(plan.open_searches()[key], crashed)) == 2


# Comparisons


def make_curves(ends: dict[str, list[float]], after: float = 1.0) -> Curves:
    return {
        (method, "digits", seed): [Point(after, after, after, 1.0, error)]
        for method, errors in ends.items()
        for seed, error in enumerate(errors)
    }


def test_differences_over_seeds_with_holm_over_all_of_the_data_set() -> None:
    ends = {
        "metamixup": [10.0, 12.0, 11.0, 13.0],
        "other": [11.0, 12.5, 12.5, 15.0],
        "tpe-alpha-asha": [10.5, 11.0, 11.0, 12.0],
    }
    actual = {line.method: line for line in compare(make_curves(ends), 4.0)}
    # Three pairs of methods: each counted once, from whichever side it is told.
    pairs = [
        ("other", "metamixup"),
        ("other", "tpe-alpha-asha"),
        ("tpe-alpha-asha", "metamixup"),
    ]
    p = {pair: float(stats.ttest_rel(ends[pair[0]], ends[pair[1]]).pvalue) for pair in pairs}
    smallest, middle, largest = sorted(p, key=lambda pair: p[pair])
    by_hand = {smallest: 3 * p[smallest]}
    by_hand[middle] = max(by_hand[smallest], 2 * p[middle])
    by_hand[largest] = max(by_hand[middle], p[largest])
    for (method, reference), expected in by_hand.items():
        contrast = actual[method].against[reference]
        assert contrast.p_holm == pytest.approx(min(1.0, expected))
        assert contrast.paired.p_value == pytest.approx(p[method, reference])
    assert actual["other"].against["metamixup"].paired.difference == pytest.approx(1.25)
    mirrored = actual["metamixup"].against["tpe-alpha-asha"]
    assert mirrored.paired.difference == pytest.approx(0.375)
    assert mirrored.p_holm == actual["tpe-alpha-asha"].against["metamixup"].p_holm
    assert set(actual["metamixup"].against) == {"tpe-alpha-asha"}


def test_a_study_can_have_another_reference() -> None:
    ends = {"grid": [1.0, 2.0, 4.0], "search": [2.0, 2.5, 4.0], "metamixup": [3.0, 2.0, 1.0]}
    actual = {line.method: line for line in compare(make_curves(ends), 4.0, references=("grid",))}
    assert {method: set(line.against) for method, line in actual.items()} == {
        "grid": set(), "search": {"grid"}, "metamixup": {"grid"},
    }  # fmt: skip
    assert actual["search"].against["grid"].paired.difference == pytest.approx(0.5)


def test_data_sets_are_families_of_their_own() -> None:
    one = make_curves({"metamixup": [1.0, 2.0, 3.0], "other": [2.0, 2.5, 4.0]})
    both = one | {(m, "mnist", s): actual for (m, _, s), actual in one.items()}
    lines = compare(both, 4.0)
    assert [(line.dataset, line.method) for line in lines] == [
        (d, m) for d in ("digits", "mnist") for m in ("metamixup", "other")
    ]
    contrast = lines[1].against["metamixup"]
    assert contrast.p_holm == contrast.paired.p_value


def test_a_mean_is_over_all_seeds_or_is_not_told() -> None:
    """At half the budget one of two seeds has an incumbent: its mean would be of the lucky one."""
    results: Curves = {
        ("a", "digits", 0): [Point(1.0, 1, 1, 5.0, 6.0)],
        ("a", "digits", 1): [Point(3.0, 1, 1, 5.0, 8.0)],
        ("a", "digits", 2): [],  # all of it failed
    }
    assert errors_at(results, "a", "digits", 2.0) == {0: 6.0}
    [line] = compare(results, 4.0)
    assert [interval.n for interval in line.at] == [0, 0, 2]
    assert line.at[2].mean == 7.0

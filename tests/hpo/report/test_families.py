"""Which p of a table are adjusted together, against Holm's method by hand."""

from __future__ import annotations

from typing import Any

import pytest

from hpo.report.contrasts import paired
from hpo.report.families import adjusted_p
from hpo.study.comparisons import BEST_BETA, Comparisons
from hpo.study.rows import Family, Row

FAMILIES: dict[str, Family] = {
    "none": "none", "beta-1": "beta", "stop": "extra", "mine": "learned", "placebo": "placebo",
    "fold": "extra",
}  # fmt: skip
ERRORS = {
    "none": dict(enumerate([7.0, 8.0, 10.0, 8.5])),
    "beta-1": dict(enumerate([5.0, 6.0, 7.0, 6.5])),
    "stop": dict(enumerate([4.0, 5.5, 6.9, 5.0])),
    "mine": dict(enumerate([4.9, 5.0, 6.6, 5.9])),
    "placebo": dict(enumerate([5.1, 6.6, 7.3, 6.0])),
    "fold": dict(enumerate([9.1, 9.6, 9.3, 9.0])),
}
ROWS = [
    Row("stop", "", "", "extra", counterpart="none", needs=("fold",)),
    Row("mine", "", "", "learned", counterpart="stop"),
    Row("elsewhere", "", "", "extra", counterpart="mine"),
    Row("beta-1", "", "", "beta", counterpart="elsewhere"),
]


def lines(*keys: str) -> list[dict[str, Any]]:
    return [
        {
            "method": key,
            "family": FAMILIES[key],
            "n_seeds": 4,
            "mean_error": sum(ERRORS[key].values()) / 4,
            "mean_val_error": 5.0,
        }
        for key in keys
    ]


def p_of(first: str, second: str) -> float:
    return paired(ERRORS[first], ERRORS[second]).p_value


def told(reference: str | None, declared: Comparisons) -> dict[tuple[str, ...], float]:
    found = adjusted_p(lines(*FAMILIES), ROWS, ERRORS, reference, declared)
    return {tuple(sorted(couple)): p for couple, p in found.items()}


def by_hand(*pairs: tuple[str, str]) -> dict[tuple[str, ...], float]:
    """Holm: the smallest of m times m, the next times m − 1, and none below the one before."""
    ranked = sorted((p_of(*pair), tuple(sorted(pair))) for pair in pairs)
    adjusted, floor = {}, 0.0
    for place, (p, pair) in enumerate(ranked):
        floor = max(floor, min(1.0, p * (len(ranked) - place)))
        adjusted[pair] = floor
    return adjusted


def test_counterparts_are_of_the_same_family_as_the_best_beta() -> None:
    in_family = by_hand(
        ("stop", "beta-1"), ("mine", "beta-1"), ("stop", "none"), ("mine", "stop")
    )  # fmt: skip
    # The positive control, the placebo and what another row needs stand alone; rows that are not
    # there are not compared.
    alone = {
        ("beta-1", "none"): p_of("none", "beta-1"),
        ("beta-1", "placebo"): p_of("placebo", "beta-1"),
        ("beta-1", "fold"): p_of("fold", "beta-1"),
    }
    assert told("beta-1", Comparisons()) == pytest.approx(in_family | alone)


def test_primary_comparisons_stand_alone_whichever_way_they_are_written() -> None:
    declared = Comparisons(primary=(("mine", BEST_BETA), ("none", "stop")))
    actual = told("beta-1", declared)
    expected = by_hand(("stop", "beta-1"), ("mine", "stop"))
    assert {pair: actual[pair] for pair in expected} == pytest.approx(expected)
    assert actual["beta-1", "mine"] == pytest.approx(p_of("mine", "beta-1"))
    assert actual["none", "stop"] == pytest.approx(p_of("none", "stop"))


def test_a_comparison_with_both_reference_and_counterpart_counts_once() -> None:
    actual = told("none", Comparisons())
    expected = by_hand(("stop", "none"), ("mine", "none"), ("mine", "stop"))
    assert {pair: actual[pair] for pair in expected} == pytest.approx(expected)


def test_without_a_reference_the_counterparts_are_the_family() -> None:
    assert told(None, Comparisons()) == pytest.approx(by_hand(("stop", "none"), ("mine", "stop")))


def test_a_reference_that_was_not_asked_for_is_compared_with_nothing() -> None:
    declared = Comparisons(primary=(("mine", "stop"),), positive=("stop", "none"))
    found = adjusted_p(lines("stop", "none", "mine"), ROWS, ERRORS, "supervised-only", declared)
    assert {tuple(sorted(couple)) for couple in found} == {("none", "stop"), ("mine", "stop")}

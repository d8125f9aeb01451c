"""Agreement against published numbers, an analysis of variance by hand, and simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hpo.analyses.figures.agreement import agreement

RATINGS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
)
"""Of six subjects by four judges: Shrout and Fleiss, table 2, whose ICC(3, 1) is 0.71."""


def test_the_published_example() -> None:
    """F is 11.03 with 5 and 15 degrees of freedom; its quantiles there are 3.576 and 6.428."""
    maps = [np.array([*judge, *[math.nan] * 3]).reshape(3, 3) for judge in RATINGS.T]
    actual = agreement(maps)
    assert actual.value == pytest.approx(0.71, abs=0.005)
    assert actual.low == pytest.approx((11.03 / 3.576 - 1) / (11.03 / 3.576 + 3), abs=0.002)
    assert actual.high == pytest.approx((11.03 * 6.428 - 1) / (11.03 * 6.428 + 3), abs=0.002)


def simulated(rng: np.random.Generator, shared: float, seeds: int = 3) -> list[np.ndarray]:
    """Maps [6, 6] of which this part of the variance is common; every seed has its own level."""
    common = math.sqrt(shared) * rng.normal(size=(6, 6))
    alone = math.sqrt(1 - shared) * rng.normal(size=(seeds, 6, 6))
    return [common + lam + rng.normal() for lam in alone]


@pytest.mark.parametrize("shared", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("beyond", [False, True])
def test_the_interval_has_the_truth_in_19_of_20_cases(shared: float, beyond: bool) -> None:
    """Of 1000 draws 950 are expected, with a standard deviation of 7."""
    rng = np.random.default_rng(0)
    actual = [agreement(simulated(rng, shared), beyond_classes=beyond) for _ in range(1000)]
    inside = sum(one.low <= shared <= one.high for one in actual)
    assert 922 <= inside <= 978
    assert np.mean([one.value for one in actual]) == pytest.approx(shared, abs=0.03)


def test_between_two_seeds_of_equal_spread_it_is_their_correlation() -> None:
    one, other = simulated(np.random.default_rng(1), 0.5, seeds=2)
    one, other = ((lam - lam.mean()) / lam.std() for lam in (one, other))
    expected = float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
    assert agreement([one, other]).value == pytest.approx(expected)


def test_classes_without_pairs_agree_and_not_beyond() -> None:
    rng = np.random.default_rng(2)
    classes = np.add.outer(rng.normal(size=6), rng.normal(size=6))
    maps = [classes + 0.1 * rng.normal(size=(6, 6)) for _ in range(3)]
    assert agreement(maps).low > 0.9
    beyond = agreement(maps, beyond_classes=True)
    assert beyond.low < 0 < beyond.high
    # Whatever is added to a row or a column of every seed, what is beyond stays.
    other = agreement([lam + classes for lam in maps], beyond_classes=True)
    assert other.value == pytest.approx(beyond.value)


def test_cells_that_a_seed_has_not_do_not_count() -> None:
    """Without its last row and column a map is a smaller map."""
    maps = simulated(np.random.default_rng(3), 0.5)
    cut = [lam.copy() for lam in maps]
    cut[1][-1], cut[1][:, -1] = math.nan, math.nan
    for beyond in (False, True):
        actual = agreement(cut, beyond_classes=beyond)
        smaller = agreement([lam[:-1, :-1] for lam in maps], beyond_classes=beyond)
        assert actual.value == pytest.approx(smaller.value)
        assert actual.low == pytest.approx(smaller.low)


def test_where_nothing_can_be_said() -> None:
    flat, one = np.full((2, 2), 0.5), np.array([[0.1, 0.2], [0.3, 0.4]])
    gone = np.full((2, 2), math.nan)
    for maps in ([], [one], [flat, flat], [one, gone]):
        assert math.isnan(agreement(maps).value)
    assert agreement([one, one]).value == 1
    single = [np.array([[0.1, math.nan], [math.nan, math.nan]])] * 2
    assert math.isnan(agreement(single).value)

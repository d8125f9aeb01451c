"""Copies of one policy, told apart or not: against SciPy's tests, and from hand-made records."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from core.policies import Beta, NoMix
from hpo.analyses.equal_policies import chance, equal_policies, p_values
from hpo.cells.record import CellRecord
from hpo.report.outcome import Outcome
from hpo.report.statistics import paired_comparison
from studies.equal_policies import rows

Make = Callable[..., CellRecord]


@pytest.fixture
def equal() -> np.ndarray:
    """Errors of 12 copies with 20 seeds: a seed moves all copies, and no copy is better."""
    random = np.random.default_rng(1)
    return 5 + random.normal(size=(20, 1)) + random.normal(size=(20, 12))


def test_p_is_that_of_the_paired_comparison_and_of_scipy(equal: np.ndarray) -> None:
    square = p_values(equal)
    for first, second in ((0, 1), (3, 11), (5, 2)):
        pair = equal[:, first], equal[:, second]
        assert square[first, second] == pytest.approx(stats.ttest_rel(*pair).pvalue, rel=1e-9)
        assert square[first, second] == pytest.approx(paired_comparison(*pair).p_value, rel=1e-9)
    assert (square.diagonal() == 1).all()
    assert (p_values(np.array([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]])) == 1).all()


def test_two_copies_have_the_f_of_a_squared_t(equal: np.ndarray) -> None:
    (*_, line) = chance(equal[:, :2])
    t, p = stats.ttest_rel(equal[:, 0], equal[:, 1])
    assert (line["f"], line["p_value"]) == (pytest.approx(t**2), pytest.approx(p))
    half = abs(equal[:, 0].mean() - equal[:, 1].mean()) / 2
    assert line["spread"] == pytest.approx(half * 2**0.5)


def test_equal_copies_are_told_apart_as_often_as_chance_has_it(equal: np.ndarray) -> None:
    lines = chance(equal)
    pairs = 12 * 11 // 2
    assert [line["seeds"] for line in lines] == [3, 5, 10, 20]
    assert [line["comparisons"] for line in lines] == [6 * pairs, 4 * pairs, 2 * pairs, pairs]
    for line in lines:
        assert line["chance_low"] < 5 < line["chance_high"]
        assert line["chance_low"] <= line["below"] <= line["chance_high"]
    assert lines[-1]["p_value"] > 0.05
    assert 0.5 < lines[-1]["spread"] / lines[-1]["spread_by_chance"] < 1.5
    assert lines[-1]["spread_by_chance"] == pytest.approx(20**-0.5, rel=0.15)


def test_copies_that_differ_are_found_out(equal: np.ndarray) -> None:
    (*_, line) = chance(equal + 3 * np.arange(12))
    assert (line["below"], line["tables"]) == (100, 100)
    assert line["p_value"] < 1e-10
    assert line["chance_high"] < 50


def test_the_report_takes_copies_alone_and_seeds_that_all_have(
    make_record: Make, outcome_of: Callable[..., Outcome], equal: np.ndarray
) -> None:
    table = rows()
    copies = [row.row.key for row in table[1:4]]
    records = [
        make_record(key, seed, policy=Beta(0.5), test_error=float(equal[seed, i]))
        for i, key in enumerate(copies)
        for seed in range(5 + i)  # the first has five seeds alone
    ]
    records += [make_record("none", seed, policy=NoMix(), test_error=99.0) for seed in range(2)]
    extra = equal_policies(outcome_of(table, records, ["digits"]))
    frame = pd.read_csv(extra.files[0])
    assert list(frame["seeds"]) == [3, 5]
    assert set(frame["copies"]) == {3}
    expected = chance(equal[:5, :3])[-1]
    assert frame["f"].iloc[-1] == pytest.approx(expected["f"], rel=1e-4)
    assert "### digits" in extra.markdown
    assert "are not shown to differ by more than their seeds explain" in extra.markdown


def test_nothing_is_said_of_two_seeds(
    make_record: Make, outcome_of: Callable[..., Outcome]
) -> None:
    records = [
        make_record(row.row.key, seed, policy=Beta(0.5), test_error=1.0)
        for row in rows()[1:]
        for seed in range(2)
    ]
    extra = equal_policies(outcome_of(rows(), records, ["digits"]))
    assert (extra.markdown, extra.files) == ("", [])


def test_the_copies_lie_around_the_first() -> None:
    alphas = [row.policy.alpha for row in rows()[1:] if isinstance(row.policy, Beta)]
    assert alphas[0] == 0.5
    assert len(set(alphas)) == 21
    assert max(abs(alpha / 0.5 - 1) for alpha in alphas) == pytest.approx(0.002)

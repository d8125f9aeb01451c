from __future__ import annotations

import math

import pytest

from hpo.report.statistics import holm, mean_interval, paired_comparison

# Two-sided 95 % quantiles of Student's t, from a printed table.
T_1, T_2, T_4 = 12.7062, 4.302653, 2.776445


def test_interval_of_three_values_by_hand() -> None:
    # 4, 5, 9: mean 6, squared deviations 4 + 1 + 9 = 14, variance 7, s/sqrt(3) = sqrt(7/3).
    interval = mean_interval([4.0, 5.0, 9.0])
    half = T_2 * math.sqrt(7 / 3)
    assert interval.n == 3
    assert interval.mean == pytest.approx(6.0)
    assert interval.low == pytest.approx(6.0 - half, rel=1e-6)
    assert interval.high == pytest.approx(6.0 + half, rel=1e-6)


def test_interval_at_another_level() -> None:
    # t(0.95, 4) = 2.131847; 1..5 has variance 2.5, s/sqrt(5) = sqrt(0.5).
    interval = mean_interval([1, 2, 3, 4, 5], confidence=0.90)
    assert interval.high - interval.mean == pytest.approx(2.131847 * math.sqrt(0.5), rel=1e-6)


def test_one_value_has_a_mean_and_no_interval() -> None:
    interval = mean_interval([3.5])
    assert (interval.mean, interval.n) == (3.5, 1)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_no_value_is_nan_with_n_zero() -> None:
    interval = mean_interval([])
    assert interval.n == 0
    assert math.isnan(interval.mean)


def test_equal_values_have_an_interval_of_no_width() -> None:
    interval = mean_interval([2.0, 2.0, 2.0])
    assert (interval.low, interval.mean, interval.high) == (2.0, 2.0, 2.0)


def test_paired_comparison_by_hand() -> None:
    # Differences 1, 2, 3, 4, 5: mean 3, s/sqrt(5) = sqrt(0.5), t = 3/sqrt(0.5) = 4.242641.
    comparison = paired_comparison([11, 22, 33, 44, 55], [10, 20, 30, 40, 50])
    half = T_4 * math.sqrt(0.5)
    assert comparison.difference == pytest.approx(3.0)
    assert comparison.low == pytest.approx(3.0 - half, rel=1e-6)
    assert comparison.high == pytest.approx(3.0 + half, rel=1e-6)
    # With 4 degrees of freedom the distribution function is elementary:
    # P(|T| > t) = 1 - sin(a) (1 + cos(a)^2 / 2), a = atan(t / 2).
    angle = math.atan(3 / math.sqrt(0.5) / 2)
    expected = 1 - math.sin(angle) * (1 + math.cos(angle) ** 2 / 2)
    assert comparison.p_value == pytest.approx(expected, rel=1e-9)
    assert comparison.n == 5


def test_paired_comparison_of_two_pairs_uses_one_degree_of_freedom() -> None:
    # Differences 1 and 3: mean 2, s = sqrt(2), s/sqrt(2) = 1; P(|T1| > 2) = 1 - 2 atan(2) / pi.
    comparison = paired_comparison([1, 3], [0, 0])
    assert comparison.low == pytest.approx(2 - T_1, rel=1e-5)
    assert comparison.p_value == pytest.approx(1 - 2 * math.atan(2) / math.pi)


def test_swapping_changes_the_sign_alone() -> None:
    one = paired_comparison([1.0, 4.0, 2.0], [2.0, 2.0, 2.5])
    other = paired_comparison([2.0, 2.0, 2.5], [1.0, 4.0, 2.0])
    assert other.difference == -one.difference
    assert (other.low, other.high) == (-one.high, -one.low)
    assert other.p_value == one.p_value


def test_identical_results_have_p_one() -> None:
    comparison = paired_comparison([3.0, 4.0, 5.0], [3.0, 4.0, 5.0])
    assert (comparison.difference, comparison.low, comparison.high) == (0.0, 0.0, 0.0)
    assert comparison.p_value == 1.0


def test_a_constant_difference_up_to_rounding_has_no_interval_and_no_p_value() -> None:
    # 0.3 - 0.2 and 0.8 - 0.7 differ in the last bits only; t would be about 1e15.
    comparison = paired_comparison([0.3, 0.8, 1.3], [0.2, 0.7, 1.2])
    assert comparison.difference == pytest.approx(0.1)
    assert math.isnan(comparison.low)
    assert math.isnan(comparison.high)
    assert math.isnan(comparison.p_value)
    equal = paired_comparison([0.3, 0.8], [0.3, 0.8])
    assert (equal.low, equal.high, equal.p_value) == (0.0, 0.0, 1.0)


def test_one_pair_has_a_difference_and_nothing_else() -> None:
    comparison = paired_comparison([3.0], [1.0])
    assert (comparison.difference, comparison.n) == (2.0, 1)
    assert math.isnan(comparison.low)
    assert math.isnan(comparison.p_value)


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="equal lengths, got 2 and 1"):
        paired_comparison([1.0, 2.0], [1.0])


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.6 times 4, 3, 2, 1 = 0.04, 0.06, 0.06, 0.6.
    assert holm([0.03, 0.01, 0.6, 0.02]) == pytest.approx([0.06, 0.04, 0.6, 0.06])


def test_holm_never_decreases_and_stops_at_one() -> None:
    # 0.4 * 3 is capped at 1, and 0.5 * 2 = 1 may not fall below it.
    assert holm([0.4, 0.5, 0.45]) == [1.0, 1.0, 1.0]
    # 2 * 0.03 = 0.06 is above 1 * 0.05, which is raised to it.
    assert holm([0.03, 0.05]) == pytest.approx([0.06, 0.06])


def test_holm_does_not_count_missing_tests() -> None:
    adjusted = holm([0.02, math.nan, 0.04])
    assert adjusted[0] == pytest.approx(0.04)
    assert math.isnan(adjusted[1])
    assert adjusted[2] == pytest.approx(0.04)
    assert holm([]) == []

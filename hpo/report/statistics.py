"""Intervals and comparisons over seeds: small samples, hence Student's t throughout."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

_NAN = float("nan")
_Line = TypeVar("_Line", bound=Mapping[Any, Any])


class MeanInterval(NamedTuple):
    """Mean of ``n`` values with a two-sided confidence interval, in the unit of the values."""

    mean: float
    low: float
    high: float
    n: int


class PairedComparison(NamedTuple):
    """Mean of ``n`` paired differences first − second, its interval, and the two-sided p-value."""

    difference: float
    low: float
    high: float
    p_value: float
    n: int


def lowest(lines: Iterable[_Line], by: Callable[[_Line], Any]) -> _Line | None:
    """Returns the lowest of a table's lines, among those with the most finished seeds (n_seeds);
    None where none finished.

    Rows that lost seeds to divergence are averaged over other seeds, perhaps kinder ones.
    """
    there = [line for line in lines if line["n_seeds"] > 0]
    most = max((line["n_seeds"] for line in there), default=0)
    return min((line for line in there if line["n_seeds"] == most), key=by, default=None)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> MeanInterval:
    """Returns the mean and its two-sided Student-t interval, mean ± t(n−1)·s/√n.

    Args:
        values: any number of finite values, one for each seed.
        confidence: level of the interval, in (0, 1).

    Returns:
        The interval; its ends are NaN for one value (nothing is known about the spread), and
        everything is NaN for none.
    """
    sample = np.asarray(values, dtype=np.float64)
    n = len(sample)
    if n == 0:
        return MeanInterval(_NAN, _NAN, _NAN, 0)
    mean = float(sample.mean())
    if n == 1:
        return MeanInterval(mean, _NAN, _NAN, 1)
    half = _half_width(sample, confidence)
    return MeanInterval(mean, mean - half, mean + half, n)


def paired_comparison(
    first: Sequence[float], second: Sequence[float], confidence: float = 0.95
) -> PairedComparison:
    """Takes a paired t test of two methods on the same seeds: H0 is a mean difference of zero.

    Args:
        first: values of one method, one for each seed.
        second: values of the other, for the same seeds in the same order.
        confidence: level of the interval, in (0, 1).

    Returns:
        The comparison of first − second. With fewer than two pairs interval and p are NaN. Without
        any spread the t statistic is 0/0 or x/0: p is 1 when all differences are zero, and NaN, as
        is the interval, when all equal the same other number (p is not 0, which a handful of seeds
        can never support).

    Raises:
        ValueError: the two have different lengths.

    Examples:
        >>> import hpo
        >>> found = hpo.paired_comparison([3.0, 4.0, 5.0], [2.0, 3.5, 3.5])
        >>> found.difference, round(found.low, 2), round(found.high, 2), round(found.p_value, 3)
        (1.0, -0.24, 2.24, 0.074)
    """
    from scipy import stats

    if len(first) != len(second):
        raise ValueError(
            f"a paired comparison needs equal lengths, got {len(first)} and {len(second)}; "
            "keep the seeds that both methods have"
        )
    a = np.asarray(first, dtype=np.float64)
    b = np.asarray(second, dtype=np.float64)
    differences = a - b
    interval = mean_interval(list(differences), confidence)
    if interval.n < 2:
        return PairedComparison(interval.mean, _NAN, _NAN, _NAN, interval.n)
    # Subtraction leaves rounding noise of the values' own size: spread below it is none at all.
    noise = 8 * np.finfo(np.float64).eps * float(max(np.abs(a).max(), np.abs(b).max()))
    if float(np.ptp(differences)) <= noise:
        equal = float(np.abs(differences).max()) <= noise
        end, p_value = (interval.mean, 1.0) if equal else (_NAN, _NAN)
        return PairedComparison(interval.mean, end, end, p_value, interval.n)
    standard_error = float(differences.std(ddof=1)) / math.sqrt(interval.n)
    t = interval.mean / standard_error
    p_value = float(2.0 * stats.t.sf(abs(t), interval.n - 1))
    return PairedComparison(interval.mean, interval.low, interval.high, p_value, interval.n)


def detectable_difference(differences: Sequence[float], level: float = 0.05) -> float:
    """Returns the true mean difference that a paired t test of so many seeds finds with 80 % power.

    Args:
        differences: one a seed; their spread is taken for the true one.
        level: of the two-sided test.

    Returns:
        A positive number; NaN for fewer than two differences, and without any spread.
    """
    from scipy import optimize, stats

    n = len(differences)
    # Subtraction leaves rounding noise, far below any spread of trainings.
    if n < 2 or np.ptp(differences) <= 1e-9 * np.abs(differences).max():
        return _NAN
    # Given the estimated spread, s times the true one, the statistic exceeds its bound as a normal
    # variable exceeds s times that; the mean over s is the power. (SciPy's noncentral t is NaN far
    # out.)
    shares = (np.arange(4000) + 0.5) / 4000
    bound = stats.t.ppf(1 - level / 2, n - 1) * stats.chi.ppf(shares, n - 1) / math.sqrt(n - 1)

    def missed(shift: float) -> float:
        found = stats.norm.cdf(shift - bound) + stats.norm.cdf(-shift - bound)
        return float(0.8 - found.mean())

    found_at = float(optimize.brentq(missed, 0.0, float(bound.max()) + 10))
    return found_at * float(np.std(differences, ddof=1)) / math.sqrt(n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts one family of p-values by Holm's step-down method (1979).

    Args:
        p_values: raw p-values in any order; a NaN (no test was possible) is not counted.

    Returns:
        The adjusted values in the given order, at most 1; NaN stays NaN. Rejecting what is below
        0.05 keeps the chance of any false rejection in the family below 0.05.

    Examples:
        >>> import hpo
        >>> hpo.holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    adjusted = [_NAN] * len(p_values)
    tested = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    running = 0.0
    for rank, (p, index) in enumerate(tested):
        running = max(running, min(1.0, (len(tested) - rank) * p))
        adjusted[index] = running
    return adjusted


def _half_width(sample: np.ndarray, confidence: float) -> float:
    from scipy import stats

    quantile = float(stats.t.ppf(0.5 + confidence / 2.0, len(sample) - 1))
    return quantile * float(sample.std(ddof=1)) / math.sqrt(len(sample))

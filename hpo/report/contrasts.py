"""Differences of two rows over the seeds that both have, and what they let one say."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from hpo.report.markdown import adjusted, difference, plus_minus
from hpo.report.statistics import (
    MeanInterval,
    PairedComparison,
    detectable_difference,
    holm,
    mean_interval,
    paired_comparison,
)

Values = Mapping[int, float]
"""By seed."""

Key = TypeVar("Key", bound=Hashable)

LEVEL = 0.05
"""A difference whose adjusted p is below it is told apart from none."""

HOLM = (
    "- differences are paired over seeds, with 95 % interval; p of the t test, adjusted by Holm's "
    "method for all the differences told here of one data set."
)
"""What a text says of its differences."""


@dataclass(frozen=True)
class Contrast:
    """A difference of two rows, and its p adjusted for the comparisons it was made with."""

    paired: PairedComparison
    p_holm: float

    @property
    def direction(self) -> int:
        """Returns 1 for a difference above 0, −1 for one below, 0 where it is not told apart from
        0."""
        return int(np.sign(self.paired.difference)) if self.p_holm < LEVEL else 0

    def columns(self) -> dict[str, float]:
        """Returns the difference with interval and both p as columns of a CSV."""
        return {
            "difference": self.paired.difference,
            "diff_ci_low": self.paired.low,
            "diff_ci_high": self.paired.high,
            "p_value": self.paired.p_value,
            "p_holm": self.p_holm,
        }

    def text(self, digits: int = 3) -> str:
        """Returns the difference with interval, p and n, for people."""
        paired = self.paired
        if paired.n == 0:
            return "no seed in common"
        told = difference(*paired[:3], digits)
        return f"{told}, {adjusted(self.p_holm)}, n = {paired.n}"


def interval_text(interval: MeanInterval, digits: int = 3) -> str:
    """Returns an interval for people."""
    return plus_minus(interval.mean, interval.high, f".{digits}f")


def mean_text(values: Iterable[float], digits: int = 3) -> str:
    """Returns the mean of these with its 95 % interval, for people."""
    return interval_text(mean_interval(list(values)), digits)


def paired(first: Values, second: Values, *, confidence: float = 0.95) -> PairedComparison:
    """Returns first − second over the seeds that both have."""
    shared = sorted(first.keys() & second.keys())
    return paired_comparison([first[s] for s in shared], [second[s] for s in shared], confidence)


def detectable(first: Values, second: Values, *, level: float = LEVEL) -> float:
    """Returns the true difference that the seeds that both have show; see
    `hpo.report.statistics.detectable_difference`."""
    differences = [first[s] - second[s] for s in sorted(first.keys() & second)]
    return detectable_difference(differences, level)


def contrasts(pairs: Mapping[Key, tuple[Values, Values]]) -> dict[Key, Contrast]:
    """Returns each first − second over the seeds that both have; one family of comparisons."""
    comparisons = {key: paired(*values) for key, values in pairs.items()}
    p_holm = family({key: comparison.p_value for key, comparison in comparisons.items()})
    return {key: Contrast(comparison, p_holm[key]) for key, comparison in comparisons.items()}


def family(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Returns each p adjusted by Holm's method for all of them."""
    return dict(zip(p_values, holm(list(p_values.values())), strict=True))


def verdict(directions: Sequence[int]) -> str:
    """Returns what these comparisons say of a claim; each is 1 (as it says), −1 (the other way
    round) or 0 (not told apart)."""
    if min(directions) < 0:
        if max(directions) > 0:
            return "holds for one and not the other"
        return "is contradicted" if max(directions) < 0 else "is contradicted by one"
    if min(directions) > 0:
        return "holds"
    return "holds for one" if max(directions) > 0 else "is not supported"

"""How far maps of different seeds agree: the intraclass correlation, with its interval.

Each cell of a map (a pair of classes) is a subject and each seed a rater of it. Of the variance of
a cell's value the agreement is the part that all seeds have in common: near 0 the maps of two seeds
have nothing in common and what one of them shows is chance, near 1 they are the same map. It is
the correlation between the maps of two seeds where these have equal spread; unlike the mean over
pairs of seeds, which are not independent, it has an exact interval: ICC(3, 1) of Shrout and Fleiss,
Intraclass correlations: uses in assessing rater reliability, 1979.

Legend: C classes, n seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_NAN = float("nan")


@dataclass(frozen=True)
class Agreement:
    """An intraclass correlation, at least −1/(n − 1) and at most 1, with its 95 % interval.

    The interval says how well it is known from so many cells, taken as independent. All are NaN
    where nothing can be said: fewer than two seeds, too few cells, or no spread at all.
    """

    value: float
    low: float
    high: float


def agreement(maps: Sequence[np.ndarray], *, beyond_classes: bool = False) -> Agreement:
    """Measures it of maps [C, C], one a seed, over the cells that none of them has as NaN.

    Args:
        maps: of any number of seeds.
        beyond_classes: of what is left of each map after the best sum of a number for the class of
            the row and one for that of the column. Without it a map in which every class has a λ
            of its own, whatever its partner, agrees as well as one that is specific to pairs.
    """
    from scipy import stats

    n = len(maps)
    values = np.stack([np.ravel(lam) for lam in maps]) if n else np.zeros((0, 0))
    there = ~np.isnan(values).any(axis=0)
    if n < 2 or not there.any():
        return Agreement(_NAN, _NAN, _NAN)
    constant = np.ones((there.sum(), 1))
    removed = _class_columns(len(maps[0]))[there] if beyond_classes else constant
    # Of each seed its own fit is taken off: a seed's level is no disagreement.
    basis, singular, _ = np.linalg.svd(removed, full_matrices=False)
    basis = basis[:, singular > 1e-9 * singular[0]]
    complete = values[:, there]
    rest = complete - (complete @ basis) @ basis.T
    freedom = complete.shape[1] - basis.shape[1]
    common = rest.mean(axis=0)
    noise = 1e-12 * float(np.square(complete).sum())
    between, within = n * float(np.square(common).sum()), float(np.square(rest - common).sum())
    if freedom < 1 or between + within <= noise:
        return Agreement(_NAN, _NAN, _NAN)
    if within <= noise:
        return Agreement(1.0, 1.0, 1.0)
    ratio = between / (within / (n - 1))
    others = freedom * (n - 1)
    low = ratio / float(stats.f.ppf(0.975, freedom, others))
    high = ratio * float(stats.f.ppf(0.975, others, freedom))
    value, low, high = ((f - 1) / (f + n - 1) for f in (ratio, low, high))
    return Agreement(value, low, high)


def _class_columns(classes: int) -> np.ndarray:
    """Returns for each cell which row and which column it is in, [C·C, 2·C]."""
    one = np.eye(classes)
    return np.hstack([np.repeat(one, classes, axis=0), np.tile(one, (classes, 1))])

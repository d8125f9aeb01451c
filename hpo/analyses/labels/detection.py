"""This module measures how well an order of suspicion finds labels that are known to be wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

FEW = 100
"""Labels that a person looks through in one go."""

_NAN = float("nan")


@dataclass(frozen=True)
class Detection:
    """What a score of `total` images does against their `wrong` labels.

    Attributes:
        auc: area under the ROC curve: the chance that of a wrong and a right label, drawn at
            random, the wrong one scores lower. 0.5 is guessing; NaN without wrong or right ones.
        precision_at_wrong: part of the `wrong` lowest-scored that are wrong; recall is the same
            number.
        precision_at_few: part of the `FEW` lowest-scored that are wrong; NaN where there are no
            more images than that.
    """

    total: int
    wrong: int
    auc: float
    precision_at_wrong: float
    precision_at_few: float


def detect(scores: ArrayLike, wrong: ArrayLike) -> Detection:
    """Measures scores [N], low where a label is suspected, by which labels are wrong, bool [N].

    Raises:
        ValueError: the lengths differ or a score is NaN.
    """
    from sklearn.metrics import roc_auc_score

    values, truth = _checked(scores, wrong)
    count = int(truth.sum())
    mixed = 0 < count < len(truth)
    return Detection(
        total=len(truth),
        wrong=count,
        auc=float(roc_auc_score(truth, -values)) if mixed else _NAN,
        precision_at_wrong=precision_at(values, truth, count),
        precision_at_few=precision_at(values, truth, FEW),
    )


def precision_at(scores: ArrayLike, wrong: ArrayLike, k: int) -> float:
    """Returns the part of the k lowest-scored labels that are wrong; NaN unless 0 < k < N.

    Where the k-th score is shared by several, their expected number in a random order counts, so
    that a score which is the same for all has the precision of guessing.

    Raises:
        ValueError: the lengths differ or a score is NaN.
    """
    values, truth = _checked(scores, wrong)
    if not 0 < k < len(values):
        return _NAN
    return float(_expected(values, truth)[k - 1]) / k


def precision_curve(scores: ArrayLike, wrong: ArrayLike) -> np.ndarray:
    """Returns `precision_at` for k = 1, ..., N, float64 [N]."""
    values, truth = _checked(scores, wrong)
    return _expected(values, truth) / np.arange(1, len(values) + 1)


def _expected(values: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns the expected number of wrong labels among the k lowest-scored, for k = 1, ..., N."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    rate = np.bincount(group, weights=truth) / sizes
    return np.cumsum(np.repeat(rate, sizes))


def _checked(scores: ArrayLike, wrong: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    values, truth = np.asarray(scores, np.float64), np.asarray(wrong, bool)
    if values.shape != truth.shape or values.ndim != 1:
        raise ValueError(
            f"scores and wrong must be [N] both, got {list(values.shape)} and {list(truth.shape)}"
        )
    if np.isnan(values).any():
        raise ValueError(f"scores must not be NaN, got one at index {np.isnan(values).argmax()}")
    return values, truth

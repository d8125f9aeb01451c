"""λ by the classes of the two samples that are mixed (Fig. 7). C classes."""

from __future__ import annotations

import torch
from torch import Tensor

from core.user_model.precision import wide_dtype

__all__ = ["label_entropy", "mean_by_class_pair"]


def mean_by_class_pair(
    lam: Tensor, first: Tensor, second: Tensor, num_classes: int
) -> list[list[float | None]]:
    """Returns the mean λ of each pair of classes, [C, C] to four digits: row the class of the
    sample that has the weight λ, column that of its partner. A pair that never came up has None.

    Args:
        lam: [n], floating.
        first, second: int64 [n], the classes of the samples and of their partners.
        num_classes: C.
    """
    cells = first * num_classes + second
    counts = torch.bincount(cells, minlength=num_classes**2)
    sums = torch.bincount(cells, weights=lam.to(wide_dtype(lam.device)), minlength=num_classes**2)
    means = (sums / counts).view(num_classes, num_classes).tolist()  # 0/0 is NaN
    return [[None if value != value else round(value, 4) for value in row] for row in means]


def label_entropy(lam: Tensor, first: Tensor, second: Tensor) -> float:
    """Returns the mean entropy (nats) of the mixed labels: the least that the loss on them can be.

    λ·y + (1 − λ)·y′ has the entropy of a coin that falls on one side with probability λ, and none
    where both samples are of one class. Arguments as in `mean_by_class_pair`.
    """
    p = lam.to(wide_dtype(lam.device))
    entropy = -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p))
    return float(torch.where(first == second, 0.0, entropy).mean())

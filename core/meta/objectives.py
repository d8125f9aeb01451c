"""This module holds what the validation batch may be judged by in place of the training's loss.

MixUp lowers a network's confidence, and cross-entropy counts that against it even where no
prediction changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from core.lazy import torch
from core.mixing.batch import Loss, soft_cross_entropy, soft_labels

if TYPE_CHECKING:
    from torch import Tensor

Objective = Literal["loss", "cross-entropy", "brier", "tempered"]

_LEAST, _MOST = 1 / 32, 32.0
_HALVINGS = 40


def brier(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the Brier score `(1/M) Σ_i Σ_c (softmax(f)_ic − y_ic)²` (Brier 1950), a scalar.

    A right prediction that gains confidence gains little by it, for the score is bounded.

    Args:
        logits: [M, C], floating.
        target: [M], integer, or [M, C], floating.
    """
    probabilities = logits.softmax(dim=1)
    target = soft_labels(target, logits.shape[1], dtype=logits.dtype)
    return (probabilities - target).square().sum(dim=1).mean()


def tempered(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the cross-entropy of `f / T` at the temperature T that makes it least, a scalar.

    T is fitted on the batch itself (Guo et al. 2017), within [1/32, 32], and then a constant: at
    the minimum the derivative with respect to T is 0, so the gradient is that of the fitted value.

    Args:
        logits: [M, C], floating.
        target: [M], integer, or [M, C], floating.
    """
    target = soft_labels(target, logits.shape[1], dtype=logits.dtype)
    with torch.no_grad():
        sharpness = _sharpness(logits.detach().double(), target.double()).to(logits.dtype)
    return soft_cross_entropy(logits * sharpness, target)


OBJECTIVES: Mapping[Objective, Loss | None] = {
    "loss": None,
    "cross-entropy": soft_cross_entropy,
    "brier": brier,
    "tempered": tempered,
}
"""By name; None stands for the loss that the training has."""


def _sharpness(logits: Tensor, target: Tensor) -> Tensor:
    """Returns 1/T, a scalar, by bisection: the loss is convex in 1/T."""
    low, high = logits.new_tensor(_LEAST), logits.new_tensor(_MOST)
    label = (target * logits).sum(dim=1)
    for _ in range(_HALVINGS):
        middle = (low * high).sqrt()
        expected = ((middle * logits).softmax(dim=1) * logits).sum(dim=1)
        falls = (expected - label).mean() < 0
        low, high = torch.where(falls, middle, low), torch.where(falls, high, middle)
    return (low * high).sqrt()

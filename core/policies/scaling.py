"""This module scales derivatives: by their own noise, or by the size that they have had lately."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from core.user_model.precision import wide_dtype
from core.user_model.ranks import Ranks

_MEMORY = 0.95
"""Of the mean square: half of it fades in 14 stages."""


class MeanSquare:
    """It keeps a moving average of a number's square, and divides the number by its root."""

    def __init__(self) -> None:
        self._square, self._count = 0.0, 0

    def scaled(self, value: float) -> float:
        """Returns the number over the root of its mean square, itself included; 0 where that is 0.

        A number that is not finite counts for nothing, and 0 is returned.
        """
        if not math.isfinite(value):
            return 0.0
        self._square = _MEMORY * self._square + (1 - _MEMORY) * value**2
        self._count += 1
        mean = self._square / (1 - _MEMORY**self._count)
        return value / math.sqrt(mean) if mean > 0 else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Returns the average, and how many numbers it is of."""
        return {"square": self._square, "squares": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads what `state_dict` gave."""
        self._square, self._count = state["square"], state["squares"]


def signal_over_noise(terms: Tensor, ranks: Ranks) -> float:
    """Returns the sum of the terms over the root of their summed squares, those of all ranks
    together; 0 where all are 0.

    Were the terms independent with mean 0, its variance would be 1.

    Args:
        terms: [B], floating; the samples' parts of a derivative.
        ranks: the processes that have some of them.
    """
    # Hypergradients of order 1e-6 square to 1e-12: scaled by the largest first.
    terms = terms.to(wide_dtype(terms.device))
    largest = ranks.largest(terms.abs().max())
    terms = terms / largest.clamp_min(torch.finfo(terms.dtype).tiny)
    total, squares = map(float, ranks.mean([terms.sum(), terms.square().sum()]))
    return total * math.sqrt(ranks.size / squares) if squares > 0 else 0.0

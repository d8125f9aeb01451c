"""This module scales a derivative by the size that it has had lately."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

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

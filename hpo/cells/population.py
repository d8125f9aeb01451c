"""How a population of trainings is configured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Population:
    """How a population is trained.

    Attributes:
        members: trainings that run side by side, two at least.
        segment: epochs between two selections.
        quantile: truncation selection: this part of the members, one at least and half at most, the
            worst, is replaced by copies of members drawn from the best so many.
        factor: a copy's α is that of its parent times or divided by it, within the bounds that α is
            searched in.
        rest: in [0, 1), how likely a copy is trained unmixed instead, so that a population finds
            when to stop. A copy of one that rests, and does not rest itself, mixes at the lowest α.

    Raises:
        ValueError: one of them is out of range.
    """

    members: int = 12
    segment: int = 2
    quantile: float = 0.2
    factor: float = 1.2
    rest: float = 0.0

    def __post_init__(self) -> None:
        if self.members < 2:
            raise ValueError(f"a population needs at least 2 members, got {self.members}")
        if self.segment < 1:
            raise ValueError(f"population segment must be at least 1, got {self.segment}")
        if not 0 < self.quantile <= 0.5:
            raise ValueError(f"population quantile must lie in (0, 0.5], got {self.quantile}")
        if not 1 < self.factor < float("inf"):
            raise ValueError(f"population factor must be above 1, got {self.factor}")
        if not 0 <= self.rest < 1:
            raise ValueError(f"population rest must lie in [0, 1), got {self.rest}")

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON types; without `rest` where it is 0, as populations were stored that
        knew none."""
        values = asdict(self)
        return values if self.rest else {n: v for n, v in values.items() if n != "rest"}

    @property
    def replaced(self) -> int:
        """Returns how many members are replaced after a segment."""
        return max(1, int(self.quantile * self.members))

"""What a whole row of a table says, for MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class SummaryRow:
    """One method on one data set: error over its seeds in percent, cost of one training.

    `further` are numbers that only some methods have.
    """

    method: str
    dataset: str
    setting: str
    n_seeds: int
    mean_error: float
    ci_low: float
    ci_high: float
    train_seconds: float
    samples_seen: float
    further: Mapping[str, float] = field(default_factory=dict)

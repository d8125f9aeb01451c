"""What a cell gives: the result of a training or of a population, or as far as it came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from core.training.result import Metrics, TrainingResult


@dataclass(frozen=True)
class PartialResult:
    """A training that did not come to its end: what it has cost, and how far it came.

    Attributes:
        history: the metrics of the epochs that were trained; see `core.training.fit.fit`.
        epochs: their number; of a population those of all members, as in `PopulationResult`.
        train_seconds, samples_seen: as in `TrainingResult`, up to the last of these epochs.
    """

    history: list[Metrics]
    epochs: int
    train_seconds: float
    samples_seen: int

    @classmethod
    def of(cls, history: Sequence[Mapping[str, float]], epochs: int | None = None) -> PartialResult:
        """Returns the result of a training with these epochs, or of a population with these
        segments and so many epochs of all members."""
        last = history[-1] if history else {"train_seconds": 0.0, "samples_seen": 0.0}
        return cls(
            history=[dict(metrics) for metrics in history],
            epochs=len(history) if epochs is None else epochs,
            train_seconds=last["train_seconds"],
            samples_seen=int(last["samples_seen"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class PopulationResult(TrainingResult):
    """The best member of a population at its end, with the cost of all members.

    Attributes:
        lineage: for each segment and member, α and the member whose training it went on with.
    """

    lineage: list[list[list[float]]] = field(default_factory=list)


Result = TrainingResult | PartialResult


def result_from_dict(data: Mapping[str, Any]) -> Result:
    """Returns the result whose `to_dict` gave `data`; an empty one is that of no epoch.

    Raises:
        TypeError: a field is unknown or missing.
    """
    if not data:
        return PartialResult.of([])
    if "test_error" not in data:
        return PartialResult(**data)
    kind = PopulationResult if "lineage" in data else TrainingResult
    return kind.from_dict(data)

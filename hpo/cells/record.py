"""What became of a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from core.training.config import TrainingConfig
from hpo.cells.cell import SCHEMA, Cell, population_fields, population_in

ENVIRONMENT = ("torch", "python", "machine", "device", "threads")
"""Of a record's environment what its numbers may depend on. The rest tells of the training: its
data's fingerprint, the host and node it ran on, the GPU memory it took."""
Status = Literal["finished", "pruned", "diverged", "crashed"]


@dataclass(frozen=True)
class CellRecord:
    """What became of a cell.

    Attributes:
        cell: the configuration.
        status: "finished"; "pruned", a search trial stopped early; "diverged", its loss became NaN;
            "crashed", its worker failed (never stored, so tried again next time).
        result: `TrainingResult` as a dictionary; without test_error where not finished.
        error: why it is not finished, or None.
        environment: versions, device and machine it was trained with.
    """

    cell: Cell
    status: Status
    result: Mapping[str, Any]
    error: str | None
    environment: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, the form of `result.json`."""
        return {
            "schema": SCHEMA,
            "cell_id": self.cell.id,
            "method": self.cell.method,
            "dataset": self.cell.dataset,
            "seed": self.cell.seed,
            "purpose": self.cell.purpose,
            "status": self.status,
            "error": self.error,
            "config": self.cell.training.to_dict(),
            **population_fields(self.cell.population),
            "environment": dict(self.environment),
            "result": dict(self.result),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CellRecord:
        """The inverse of `to_dict`."""
        training = TrainingConfig.from_dict(data["config"])
        return cls(
            cell=Cell(data["method"], training, data["purpose"], population_in(data)),
            status=data["status"],
            result=data["result"],
            error=data["error"],
            environment=data["environment"],
        )


def partial_result(history: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The result of a training that did not come to its end: what it cost and how far it came."""
    last = history[-1] if history else {"train_seconds": 0.0, "samples_seen": 0.0}
    return {
        "history": [dict(metrics) for metrics in history],
        "epochs": len(history),
        "train_seconds": last["train_seconds"],
        "samples_seen": int(last["samples_seen"]),
    }

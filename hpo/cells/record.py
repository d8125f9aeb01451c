"""What became of a cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from core.training.config import TrainingConfig
from core.training.result import TrainingResult
from hpo.cells.cell import SCHEMA, Cell, special_in
from hpo.cells.result import Result, result_from_dict

ENVIRONMENT = ("torch", "python", "machine", "device", "threads")
"""Of a record's environment what its numbers may depend on. The rest tells of the training: its
data's fingerprint, the host and node it ran on, the GPU memory it took."""
Status = Literal["finished", "pruned", "diverged", "crashed"]


class RefusedSettings(ValueError):
    """What is stored is of another version, or of a user's own code that was not imported."""


@dataclass(frozen=True)
class CellRecord:
    """What became of a cell.

    Attributes:
        cell: the configuration.
        status: "finished"; "pruned", a search trial stopped early; "diverged", its loss became NaN;
            "crashed", its worker failed (never stored, so tried again next time).
        result: a `TrainingResult` (of a population a `PopulationResult`) where it is finished, else
            a `PartialResult`.
        error: why it is not finished, or None.
        environment: versions, device and machine it was trained with.

    Examples:
        >>> import core, hpo
        >>> from hpo.cells import Cell
        >>> from hpo.cells.result import PartialResult
        >>> training = core.training.TrainingConfig("digits", "digits_cnn", core.NoMix(), lr=50.0)
        >>> cell, nothing = Cell("none", training), PartialResult.of([])
        >>> record = hpo.CellRecord(cell, "diverged", nothing, "the loss became NaN", {})
        >>> hpo.CellRecord.from_dict(record.to_dict()) == record
        True
    """

    cell: Cell
    status: Status
    result: Result
    error: str | None
    environment: Mapping[str, str]

    @property
    def trained(self) -> TrainingResult:
        """Returns the result of a finished training.

        Raises:
            ValueError: the training is not finished.
        """
        if not isinstance(self.result, TrainingResult):
            raise ValueError(f"{self.cell.id} is {self.status}: it has no test error")
        return self.result

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON types, the form of `result.json`."""
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
            **self.cell.special(),
            "environment": dict(self.environment),
            "result": self.result.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CellRecord:
        """Reads what `to_dict` returned.

        Raises:
            RefusedSettings: this version has no such settings, or takes them no longer.
            KeyError, TypeError, ValueError: the rest is no record.
        """
        try:
            training = TrainingConfig.from_dict(data["config"])
        except ValueError as error:
            raise RefusedSettings(str(error)) from error
        return cls(
            cell=Cell(data["method"], training, data["purpose"], **special_in(data)),
            status=data["status"],
            result=result_from_dict(data["result"]),
            error=data["error"],
            environment=data["environment"],
        )

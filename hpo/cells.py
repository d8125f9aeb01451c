"""A cell is one training's full configuration with a stable id; the store holds what cells gave."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from core.analysis.config import AnalysisConfig
from core.semi_supervised.config import SemiSupervisedConfig
from core.training.config import PolicyConfig, TrainingConfig
from hpo.population import Population
from hpo.storage import FolderStorage, Keep, Storage, storage_of, write_bytes_atomically

SCHEMA = 1
ENVIRONMENT = ("torch", "python", "machine", "device", "threads")
"""Of a record's environment what its numbers may depend on. The rest tells of the training: its
data's fingerprint, the host and node it ran on, the GPU memory it took."""
Purpose = Literal["final", "search"]
Status = Literal["finished", "pruned", "diverged", "crashed"]


class StoreError(RuntimeError):
    """A stored result cannot be read or written."""


@dataclass(frozen=True)
class Cell:
    """One training of a study.

    Attributes:
        method: the row of the table it belongs to, such as "beta-1".
        training: the full configuration, seed included.
        purpose: "final" counts in the table; "search" is a trial of the row's search.
        population: it is not one training but a population of such, or None.
    """

    method: str
    training: TrainingConfig
    purpose: Purpose = "final"
    population: Population | None = None

    @cached_property
    def id(self) -> str:
        """Readable and stable: equal for equal configurations, different otherwise.

        Settings at their defaults do not enter, so that a setting which a later version adds leaves
        the identity of older cells as it is. (A default that changes must change SCHEMA.) The
        reading of a learned policy enters whole: its defaults are meant to move with the evidence.
        """
        training = self.training.to_dict()
        if training["analysis"] is not None:
            training["analysis"] = _set(AnalysisConfig, training["analysis"])
        policy = _set(PolicyConfig, training.pop("policy"))
        if self.training.semi is not None:
            training["semi"] = _set(SemiSupervisedConfig, training["semi"])
        parts = [SCHEMA, self.method, self.purpose, _set(TrainingConfig, training), policy]
        if self.population is not None:
            parts.append(asdict(self.population))
        canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
        slug = re.sub(r"[^A-Za-z0-9_.]+", "_", self.dataset)[-40:].strip("_")
        kind = "-trial" if self.purpose == "search" else ""
        return f"{self.method}{kind}-{slug}-s{self.seed}-{digest}"

    @property
    def dataset(self) -> str:
        """The data set's name."""
        return self.training.dataset

    @property
    def seed(self) -> int:
        """The training's seed."""
        return self.training.seed

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "method": self.method,
            "purpose": self.purpose,
            "training": self.training.to_dict(),
            **_told(self.population),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Cell:
        """The inverse of `to_dict`."""
        training = TrainingConfig.from_dict(data["training"])
        return cls(data["method"], training, data["purpose"], _population(data))


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
            **_told(self.cell.population),
            "environment": dict(self.environment),
            "result": dict(self.result),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CellRecord:
        """The inverse of `to_dict`."""
        training = TrainingConfig.from_dict(data["config"])
        return cls(
            cell=Cell(data["method"], training, data["purpose"], _population(data)),
            status=data["status"],
            result=data["result"],
            error=data["error"],
            environment=data["environment"],
        )


class CellStore:
    """`cells/<cell id>/result.json` in a storage, one for each cell that came to an end.

    Args:
        place: a folder of this machine, or any storage.
    """

    def __init__(self, place: Path | Storage):
        self._storage = storage_of(place)

    def place(self, cell_id: str) -> str:
        """Where the cell keeps its result and, while it trains, its checkpoints, for a person."""
        return f"{self._storage.uri}/{_folder(cell_id)}"

    def directory(self, cell_id: str) -> Path:
        """The same place as a directory, where the storage is a folder."""
        if not isinstance(self._storage, FolderStorage):
            raise StoreError(f"{self.place(cell_id)} is no directory of this machine")
        return self._storage.root / _folder(cell_id)

    def checkpoints(self, cell_id: str) -> AbstractContextManager[tuple[Path, Keep]]:
        """The directory for a training's checkpoints; see `Storage.checkpoints`."""
        return self._storage.checkpoints(_folder(cell_id))

    def remove_checkpoints(self, cell_ids: Iterable[str]) -> None:
        """Delete the cells' checkpoints."""
        self._storage.remove_checkpoints(map(_folder, cell_ids))

    def save(self, record: CellRecord) -> None:
        """Write the record so that a kill leaves either nothing or the whole.

        Raises:
            StoreError: the file cannot be written.
        """
        text = json.dumps(record.to_dict(), indent=1, allow_nan=True)
        try:
            self._storage.write(_result(record.cell.id), text.encode())
        except OSError as error:
            place, told = self.place(record.cell.id), error.strerror or error
            raise StoreError(
                f"cannot write {place}/result.json: {told}; free space or choose another "
                "--output, then run the same command, without --fresh: finished cells are kept"
            ) from error

    def load(self, cell_id: str) -> CellRecord | None:
        """The record of a cell, or None if it has not come to an end.

        Raises:
            StoreError: the file is there and cannot be read.
        """
        try:
            return CellRecord.from_dict(json.loads(self._storage.read(_result(cell_id))))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"cannot read {self.place(cell_id)}/result.json: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            place = self.place(cell_id)
            raise StoreError(
                f"{place}/result.json is not a readable result ({error}); delete {place} to train "
                "that cell again"
            ) from error

    def records(self) -> list[CellRecord]:
        """All records, sorted by id."""
        names = (name.split("/") for name in self._storage.files("cells"))
        ids = sorted(name[1] for name in names if len(name) == 3 and name[2] == "result.json")
        found = map(self.load, ids)
        return [record for record in found if record is not None]


def _folder(cell_id: str) -> str:
    """The cell's folder in a storage."""
    return f"cells/{cell_id}"


def _result(cell_id: str) -> str:
    """The cell's record in a storage."""
    return f"{_folder(cell_id)}/result.json"


def _told(population: Population | None) -> dict[str, Any]:
    """What a dictionary says of it: nothing of a single training."""
    return {} if population is None else {"population": asdict(population)}


def _population(data: Mapping[str, Any]) -> Population | None:
    """Of a cell's or a record's dictionary; a single training has none."""
    return Population(**data["population"]) if "population" in data else None


def _set(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """The settings that differ from the defaults of their dataclass."""
    defaults = {field.name: field.default for field in fields(kind)}
    defaults |= {n: list(d) for n, d in defaults.items() if isinstance(d, tuple)}  # as JSON has it
    return {name: value for name, value in values.items() if value != defaults[name]}


def partial_result(history: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The result of a training that did not come to its end: what it cost and how far it came."""
    last = history[-1] if history else {"train_seconds": 0.0, "samples_seen": 0.0}
    return {
        "history": [dict(metrics) for metrics in history],
        "epochs": len(history),
        "train_seconds": last["train_seconds"],
        "samples_seen": int(last["samples_seen"]),
    }


def write_atomically(path: Path, text: str) -> None:
    """Write a text file whole or not at all; see `hpo.storage.write_bytes_atomically`."""
    write_bytes_atomically(path, text.encode())

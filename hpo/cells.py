"""A cell is one training's full configuration with a stable id; the store holds what cells gave."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from core.analysis.config import AnalysisConfig
from core.config import PolicyConfig, TrainingConfig
from core.semi_supervised.config import SemiSupervisedConfig
from hpo.population import Population

SCHEMA = 1
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

    @property
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
        environment: versions and device it was trained with.
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
    """`DIR/cells/<cell id>/result.json`, one for each cell that came to an end."""

    def __init__(self, output: Path):
        self._root = output / "cells"

    def directory(self, cell_id: str) -> Path:
        """Where the cell keeps its result and, while it trains, its checkpoints."""
        return self._root / cell_id

    def save(self, record: CellRecord) -> None:
        """Write the record so that a kill leaves either nothing or the whole.

        Raises:
            StoreError: the file cannot be written.
        """
        directory = self.directory(record.cell.id)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write_atomically(
                directory / "result.json", json.dumps(record.to_dict(), indent=1, allow_nan=True)
            )
        except OSError as error:
            raise StoreError(
                f"cannot write {directory / 'result.json'}: {error}; free space or choose another "
                "--output, then run the same command, without --fresh: finished cells are kept"
            ) from error

    def load(self, cell_id: str) -> CellRecord | None:
        """The record of a cell, or None if it has not come to an end.

        Raises:
            StoreError: the file is there and cannot be read.
        """
        path = self.directory(cell_id) / "result.json"
        try:
            return CellRecord.from_dict(json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path} is not a readable result ({error}); delete {path.parent} to train that "
                "cell again"
            ) from error

    def records(self) -> list[CellRecord]:
        """All records, sorted by id."""
        if not self._root.is_dir():
            return []
        found = (self.load(path.name) for path in sorted(self._root.iterdir()) if path.is_dir())
        return [record for record in found if record is not None]


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
    """Write a text file whole or not at all: aside, synced, renamed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(aside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)

"""A cell: one training's full configuration with a stable id."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal

from core.analysis.config import AnalysisConfig
from core.semi_supervised.config import SemiSupervisedConfig
from core.training.config import TrainingConfig
from hpo.cells.population import Population

SCHEMA = 1
Purpose = Literal["final", "search"]

NAME = re.compile(r"[\w+@-][\w.+@-]*")
"""What may name a method, and so its cells, their folders and their runs."""


@dataclass(frozen=True)
class Cell:
    """One training of a study.

    Attributes:
        method: the row of the table it belongs to, such as "beta-1".
        training: the full configuration, seed included.
        purpose: "final" counts in the table; "search" is a trial of the row's search.
        population: it is not one training but a population of such, or None.
        parallel: of a search's trial how many are trained at a time. When it is stopped depends on
            that.
    """

    method: str
    training: TrainingConfig
    purpose: Purpose = "final"
    population: Population | None = None
    parallel: int = 1

    @cached_property
    def id(self) -> str:
        """Returns a readable and stable name: equal for equal configurations, different otherwise.

        Settings at their defaults do not enter, so that a setting which a later version adds leaves
        the identity of older cells as it is. (A default that changes must change SCHEMA.) The
        reading of a learned policy enters whole: its defaults are meant to move with the evidence.
        """
        training = self.training.to_dict()
        if training["analysis"] is not None:
            training["analysis"] = _set(AnalysisConfig, training["analysis"])
        del training["policy"]
        if self.training.semi is not None:
            training["semi"] = _set(SemiSupervisedConfig, training["semi"])
        settings = _set(TrainingConfig, training)
        policy = self.training.policy.identity()
        parts = [SCHEMA, self.method, self.purpose, settings, policy]
        if self.population is not None:
            parts.append(self.population.to_dict())
        if self.parallel != 1:
            parts.append({"parallel": self.parallel})
        semi = self.training.semi
        folds = semi is not None and semi.kind == "mixmatch" and semi.dominant
        if folds and self.training.policy.learns:
            parts.append("learned within [1/2, 1]")  # older trainings folded λ after learning
        canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
        slug = re.sub(r"[^A-Za-z0-9_.]+", "_", self.dataset)[-40:].strip("_")
        kind = "-trial" if self.purpose == "search" else ""
        return f"{self.method}{kind}-{slug}-s{self.seed}-{digest}"

    @property
    def dataset(self) -> str:
        """Returns the data set's name."""
        return self.training.dataset

    @property
    def seed(self) -> int:
        """Returns the training's seed."""
        return self.training.seed

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON types."""
        return {
            "method": self.method,
            "purpose": self.purpose,
            "training": self.training.to_dict(),
            **self.special(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Cell:
        """Reads what `to_dict` returned."""
        training = TrainingConfig.from_dict(data["training"])
        return cls(data["method"], training, data["purpose"], **special_in(data))

    def special(self) -> dict[str, Any]:
        """Returns what a dictionary says beside the training: nothing of an ordinary one."""
        fields: dict[str, Any] = {}
        if self.population is not None:
            fields["population"] = self.population.to_dict()
        if self.parallel != 1:
            fields["parallel"] = self.parallel
        return fields


def special_in(data: Mapping[str, Any]) -> dict[str, Any]:
    """Reads `Cell.special` in a cell's or a record's dictionary, as arguments of `Cell`."""
    arguments = {name: data[name] for name in ("population", "parallel") if name in data}
    if "population" in arguments:
        arguments["population"] = Population(**arguments["population"])
    return arguments


def _set(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """Returns the settings that differ from the defaults of their dataclass."""
    defaults = {field.name: field.default for field in fields(kind)}
    defaults |= {n: list(d) for n, d in defaults.items() if isinstance(d, tuple)}  # as JSON has it
    return {name: value for name, value in values.items() if value != defaults[name]}

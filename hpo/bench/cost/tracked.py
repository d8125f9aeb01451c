"""Measurements as the tracker knows them: a cell for each contender on each case."""

from __future__ import annotations

import math
from typing import Any

from core.lazy import pandas as pd
from core.policies import Beta, LearnedConfig
from hpo.bench.cost.records import Group
from hpo.bench.cost.report import build_table
from hpo.cells.cell import Cell
from hpo.cells.record import CellRecord
from hpo.cells.result import PartialResult

METRICS = (
    "time_ratio", "time_ratio_low", "time_ratio_high", "flops_ratio", "share_of_floor", "seconds",
    "steps_per_second", "peak_mib", "relative_error", "cosine", "parameters",
)  # fmt: skip
"""What a run shows, of the columns of the table."""


class _Measured(PartialResult):
    """What was measured of a contender, in the place of a training's result."""

    def __init__(self, numbers: dict[str, float]):
        super().__init__(history=[], epochs=0, train_seconds=0.0, samples_seen=0)
        object.__setattr__(self, "numbers", numbers)

    def to_dict(self) -> dict[str, Any]:
        """Returns the measured numbers by name."""
        return dict(vars(self)["numbers"])


def records(group: Group) -> list[CellRecord]:
    """Returns a record for each contender of the group, crashed where it was not measured."""
    return [_record(group, row) for row in build_table([group]).to_dict("records")]


def _record(group: Group, row: dict[Any, Any]) -> CellRecord:
    case, setting = group.case, group.setting
    error = row["error"] if isinstance(row["error"], str) else None
    plain = Beta(alpha=1.0, per_sample=True)
    learned = row["kind"] not in ("vanilla", "loop", "fit") or "metamixup" in row["contender"]
    training = case.training(setting, LearnedConfig() if learned else plain, epochs=1, flip=False)
    place = f"{case.model}-n{case.batch_size}-m{case.meta_batch_size}"
    part = "" if case.part == "main" else case.part
    method = "-".join(filter(None, [f"{row['contender']}@{place}", setting.variant, part]))
    return CellRecord(
        Cell(method, training),
        "finished" if error is None else "crashed",
        _Measured({name: float(row[name]) for name in METRICS if _is_number(row[name])}),
        error,
        group.machine,
    )


def _is_number(value: Any) -> bool:
    return not pd.isna(value) and math.isfinite(value)

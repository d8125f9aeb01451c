"""This module reads the epochs of a study's finished trainings into a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from core.lazy import pandas as pd
from hpo.cells.record import CellRecord
from hpo.report.outcome import Outcome
from hpo.report.records import finished_finals

EPOCH_COLUMNS = ("dataset", "method", "seed", "epoch")
"""The first columns of every table of epochs."""


def finished_trainings(outcome: Outcome) -> list[CellRecord]:
    """Returns the finished final trainings by the study's order of data sets, rows and seeds."""
    datasets, rows = list(outcome.plan.datasets), [row.row.key for row in outcome.plan.rows]
    records = [
        record
        for record in finished_finals(outcome.records)
        if record.cell.dataset in datasets and record.cell.method in rows
    ]

    def place(record: CellRecord) -> tuple[int, int, int]:
        cell = record.cell
        return datasets.index(cell.dataset), rows.index(cell.method), cell.seed

    return sorted(records, key=place)


def epochs_table(records: Iterable[CellRecord], names: Sequence[str]) -> pd.DataFrame:
    """Returns a line for each epoch of each training that has any of these metrics.

    Args:
        records: finished trainings, in the order of the lines.
        names: metrics of an epoch, float columns behind `EPOCH_COLUMNS`; NaN where one is missing.
    """
    lines = [
        {
            "dataset": record.cell.dataset,
            "method": record.cell.method,
            "seed": record.cell.seed,
            "epoch": int(metrics["epoch"]),
            **{name: metrics.get(name) for name in names},
        }
        for record in records
        for metrics in record.result.history
        if not metrics.keys().isdisjoint(names)
    ]
    frame = pd.DataFrame(lines, columns=[*EPOCH_COLUMNS, *names])
    return frame.astype(dict.fromkeys(names, float))

"""The stored records of a study, and which of them a table counts."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from hpo.cells.record import CellRecord
from hpo.cells.store import CellStore


def load_records(output: Path, cell_ids: Collection[str] | None = None) -> list[CellRecord]:
    """The records stored under ``output``, sorted by id.

    Args:
        output: a study's output folder.
        cell_ids: keep these only; a folder may hold cells of other configurations too.
    """
    records = CellStore(output).records()
    return [record for record in records if cell_ids is None or record.cell.id in cell_ids]


def _finals(records: Iterable[CellRecord], key: str | None) -> list[CellRecord]:
    return [r for r in records if r.cell.method == key and r.cell.purpose == "final"]


def _finished(records: Iterable[CellRecord]) -> list[CellRecord]:
    return [record for record in records if record.status == "finished"]


def errors_by_seed(records: Iterable[CellRecord], key: str) -> dict[int, float]:
    """Test error in percent by seed, of the finished final cells of a row."""
    return {
        record.cell.seed: record.trained.test_error for record in _finished(_finals(records, key))
    }

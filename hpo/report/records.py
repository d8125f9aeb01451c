"""The stored records of a study, and which of them a table counts."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path

from core.training.result import TrainingResult
from hpo.cells.cell import Cell
from hpo.cells.record import CellRecord
from hpo.cells.store import CellStore
from hpo.storage.folder import FolderStorage
from hpo.storage.places import storage_of
from hpo.storage.protocol import Storage

Results = dict[int, TrainingResult]
"""By seed what the finished final training of a row and data set gave."""


def load_records(
    output: str | Path | Storage, cell_ids: Collection[str] | None = None
) -> list[CellRecord]:
    """Returns the records stored under ``output``, sorted by id.

    Args:
        output: a study's output folder, or the place of its ``--storage``.
        cell_ids: keep these only; a folder may hold cells of other configurations too.

    Raises:
        ValueError: there is no such folder.

    Examples:
        >>> import tempfile, hpo
        >>> from core.training.fit import fit
        >>> from hpo.cells import Cell, CellStore
        >>> from hpo.study import presets
        >>> training = presets.training("digits", "smoke")
        >>> record = hpo.CellRecord(Cell("none", training), "finished", fit(training), None, {})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     CellStore(folder).save(record)  # as a study does
        ...     found = hpo.load_records(folder)
        >>> [(r.cell.method, r.cell.seed, r.trained.test_error < 100) for r in found]
        [('none', 0, True)]
    """
    storage = storage_of(output)
    if isinstance(storage, FolderStorage) and not storage.root.is_dir():
        raise ValueError(f"there is no folder {output}; give a study's --output")
    records = CellStore(storage).records()
    return [record for record in records if cell_ids is None or record.cell.id in cell_ids]


def final_trainings(
    records: Iterable[CellRecord], method: str | None = None, dataset: str | None = None
) -> list[CellRecord]:
    """Returns the records that a table counts, failed ones too, not those of searches.

    Args:
        records: a study's records; theirs is the order.
        method: a row's key; None takes every row.
        dataset: a data set's name; None takes every data set.
    """
    return [
        record
        for record in records
        if record.cell.purpose == "final"
        and method in (None, record.cell.method)
        and dataset in (None, record.cell.dataset)
    ]


def finished_finals(
    records: Iterable[CellRecord], method: str | None = None, dataset: str | None = None
) -> list[CellRecord]:
    """Returns the finished ones of `final_trainings`."""
    return [r for r in final_trainings(records, method, dataset) if r.status == "finished"]


def results_by_seed(records: Iterable[CellRecord], dataset: str, method: str) -> Results:
    """Returns what the finished final trainings of a row on a data set gave."""
    return {r.cell.seed: r.trained for r in finished_finals(records, method, dataset)}


def errors_by_seed(
    records: Iterable[CellRecord], method: str, dataset: str | None = None
) -> dict[int, float]:
    """Returns the test error in percent of a row's finished final trainings."""
    return {r.cell.seed: r.trained.test_error for r in finished_finals(records, method, dataset)}


def settings_of(cell: Cell) -> str:
    """Returns the settings of a training and its policy, but what goes with the seed: of a frozen
    row what another training learned, of a filtered one what others suspect."""
    training = cell.training.to_dict()
    settings = {k: v for k, v in training.items() if k not in ("seed", "policy", "left_out")}
    policy = {k: v for k, v in training["policy"].items() if k not in ("quantiles", "schedule")}
    return json.dumps(settings | {f"policy.{k}": v for k, v in policy.items()}, sort_keys=True)

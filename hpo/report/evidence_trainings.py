"""The trainings that stand behind a table that becomes evidence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import isclose
from pathlib import Path
from statistics import fmean

from core.lazy import pandas as pd
from hpo.cells.record import CellRecord
from hpo.report.records import final_trainings, finished_finals, load_records, settings_of
from hpo.study.rows import StudyRow

Row = tuple[str, str]
"""Method and data set, as a table names them."""
Trainings = Mapping[Row, Sequence[CellRecord]]
"""Of each row of a table its trainings in the order of their seeds, failed ones too."""

_MEASURES = ("test_error", "val_error", "train_loss", "samples_seen")


def read_table(path: Path) -> pd.DataFrame:
    """Returns a CSV; only what is empty is missing (a method may be called none)."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def shown_dataset(name: str) -> str:
    """Returns a data set's name without the folder of a machine: "folder:CIFAR10"."""
    kind, _, path = name.partition(":")
    return f"folder:{Path(path).name}" if kind == "folder" else name


def trainings_behind(table: Path, today: Mapping[str, StudyRow]) -> Trainings:
    """Returns the trainings in its folder that the rows of a table, or of a text's table, tell of.

    Of several configurations of a row they are those with the table's mean error, else those of
    today's row, else those with the lowest seed.

    Raises:
        StoreError: a training cannot be read.
    """
    means = _means(table)
    named = ({*means} or None) if table.suffix == ".md" else _named(read_table(table))
    kinds: dict[tuple[str, str, str], list[CellRecord]] = defaultdict(list)
    for record in final_trainings(load_records(table.parent)):
        method, dataset = record.cell.method, shown_dataset(record.cell.dataset)
        if named is None or (method, dataset) in named:
            kinds[method, dataset, settings_of(record.cell)].append(record)
    chosen: dict[Row, tuple[tuple[bool, bool, int], Sequence[CellRecord]]] = {}
    for (method, dataset, _), unordered in kinds.items():
        records = sorted(unordered, key=lambda record: record.cell.seed)
        first = records[0].cell
        line = means.get((method, dataset))
        is_other = line is None or not _with_mean(records, *line)
        is_old = method in today and not today[method].has_trained(first.training)
        order = (is_other, is_old, first.seed)
        if (method, dataset) not in chosen or order < chosen[method, dataset][0]:
            chosen[method, dataset] = order, records
    return {row: records for row, (_, records) in chosen.items()}


def seed_table(table: Path, trainings: Trainings) -> pd.DataFrame:
    """Returns a line for each training that a mean of the table counts, in the table's order.

    Columns: dataset, method, seed; test_error and val_error in percent; train_loss; samples_seen.
    It is empty where the table itself has no means.
    """
    return pd.DataFrame(
        [
            {"dataset": dataset, "method": method, "seed": record.cell.seed}
            | {measure: getattr(record.trained, measure) for measure in _MEASURES}
            for (method, dataset), line in _means_in(read_table(table)).items()
            for record in _with_mean(trainings.get((method, dataset), ()), *line)
        ]
    )


def _named(frame: pd.DataFrame) -> set[Row] | None:
    """Returns the rows and data sets of a table, None of one that names no data set."""
    if "dataset" not in frame:
        return None
    datasets = frame["dataset"].map(shown_dataset)
    return set(zip(frame.get("method", ()), datasets, strict=False))


def _means(table: Path) -> dict[Row, tuple[int, float]]:
    """Returns number and mean of the errors of each row, as the table says them or the one that
    its study wrote beside it."""
    parts = table.stem.split("-")
    stems = [f"{table.stem}-errors", *("-".join(parts[:n]) for n in range(len(parts), 0, -1))]
    for path in (table.parent / f"{stem}.csv" for stem in stems):
        if path.is_file() and (means := _means_in(read_table(path))):
            return means
    return {}


def _means_in(frame: pd.DataFrame) -> dict[Row, tuple[int, float]]:
    mean = "mean_error" if "mean_error" in frame else "mean"
    if not {"method", "dataset", "n_seeds", mean} <= {*frame}:
        return {}
    return {
        (line["method"], shown_dataset(line["dataset"])): (int(line["n_seeds"]), line[mean])
        for line in frame.to_dict("records")
    }


def _with_mean(records: Sequence[CellRecord], n: int, mean: float) -> list[CellRecord]:
    """Returns the first ``n`` trainings whose seeds follow each other and that have that mean
    error, as a table says it; none where there are no such."""
    finished = finished_finals(records)
    for start in range(len(finished) - n + 1) if n else ():
        window = finished[start : start + n]
        error = fmean(record.trained.test_error for record in window)
        if isclose(error, mean, rel_tol=0, abs_tol=1e-4):
            return window
    return []

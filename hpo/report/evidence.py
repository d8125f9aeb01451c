"""Evidence files: tables that stand behind pages, each with the command that made it.

``NAME.csv`` is a study's table, or ``NAME.txt`` what it says of its figure. ``NAME.json`` beside it
says where it comes from, and has the configuration of one training of each row, by which a row is
known that today's code would train otherwise. ``NAME-seeds.csv`` has what each training gave, so
that whoever doubts a mean, an interval or a p can compute it anew.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import core
from hpo.cells.cell import Cell
from hpo.report.evidence_trainings import (
    Trainings,
    read_table,
    seed_table,
    shown_dataset,
    trainings_behind,
)
from hpo.storage.atomic import write_atomically, write_csv
from hpo.study.rows import StudyRow

Rows = Callable[[str], Mapping[str, StudyRow]]
"""Returns the rows that a command has today, by key."""

_VERSIONS = ("torch", "torchvision", "numpy", "ray", "optuna", "mlflow")


@dataclass(frozen=True)
class Origin:
    """Where a table comes from.

    Attributes:
        command: what was run, as a user writes it.
        commit: of the code, or "unknown".
        date: on which the table was taken, as YYYY-MM-DD.
        versions: of Python, this package and the libraries.
        setting: what sets its data sets apart from those of other tables, such as "long tail".
        cells: by id the configuration of a training, one of each row and data set.
    """

    command: str
    commit: str = "unknown"
    date: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    setting: str = ""
    cells: Mapping[str, Any] = field(default_factory=dict)

    def stale(self, rows: Rows) -> set[tuple[str, str]]:
        """Returns method and data set of the rows that today's code would train otherwise."""
        today = rows(self.command)
        return {
            (data["method"], shown_dataset(data["training"]["dataset"]))
            for cell_id, data in self.cells.items()
            if not _is_today(cell_id, data, today)
        }


def _is_today(cell_id: str, data: Mapping[str, Any], today: Mapping[str, StudyRow]) -> bool:
    try:
        cell = Cell.from_dict(data)
    except (ValueError, TypeError, KeyError):  # settings that are no longer there
        return False
    row = today.get(cell.method)
    return cell.id == cell_id and (row is None or row.has_trained(cell.training))


def no_rows(command: str) -> Mapping[str, StudyRow]:
    """Returns none: no row has changed."""
    return {}


def take(
    table: Path,
    name: str,
    command: str,
    setting: str,
    evidence: Path,
    rows: Rows = no_rows,
) -> list[Path]:
    """Copies a study's table or text to the evidence files, and writes down where it comes from.

    Args:
        table: STUDY.csv, STUDY.md or another CSV in the output folder of a study, whose trainings
            are there.
        name: of the evidence.
        command: what was run.
        setting: see `Origin`.
        evidence: the folder of the evidence files.
        rows: of today. By them and by the table's means the study's trainings are known
            where others are stored beside them.

    Returns:
        The files: table, origin and, of a table with means, its trainings.

    Raises:
        ValueError: the table is not there, the name is none of a file, or it holds nothing.
        StoreError: a training beside it cannot be read. Nothing is written then.
    """
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"evidence {name!r} is no name; take letters, digits and hyphens")
    if not table.is_file():
        raise ValueError(f"{table} is not there; give the CSV that a study wrote")
    frame = None if table.suffix == ".md" else read_table(table)
    if frame is not None and frame.empty:
        raise ValueError(f"{table} has no line")
    # Before anything is written: a table never stands beside the origin of another one.
    trainings = trainings_behind(table, rows(command))
    origin = Origin(
        command=_without_folders(command),
        commit=_commit(),
        date=date.today().isoformat(),
        versions={"python": platform.python_version(), "metamixup-hpo": core.__version__, **_of()},
        setting=setting,
        cells=_cells(trainings),
    )
    kept = evidence / f"{name}.{'txt' if frame is None else 'csv'}"
    if frame is None:
        write_atomically(kept, _without_folders(table.read_text(encoding="utf-8")))
    else:
        if "dataset" in frame:
            frame["dataset"] = frame["dataset"].map(shown_dataset)
        write_csv(kept, frame)
    stated = kept.with_suffix(".json")
    about = json.dumps(asdict(origin), indent=1, ensure_ascii=False, sort_keys=True)
    write_atomically(stated, about + "\n")
    seeds = seeds_of(kept)
    seeds.unlink(missing_ok=True)
    if frame is None or (trained := seed_table(table, trainings)).empty:
        return [kept, stated]
    write_csv(seeds, trained)
    return [kept, stated, seeds]


def seeds_of(path: Path) -> Path:
    """Returns where the trainings of an evidence file stand, which may not be there."""
    return path.with_name(f"{path.stem}-seeds.csv")


def _without_folders(text: str) -> str:
    return re.sub(r"folder:\S+", lambda name: shown_dataset(name[0]), text)


def read_origin(path: Path) -> Origin | None:
    """Returns where the table ``path`` comes from, None where nothing says so."""
    place = path.with_suffix(".json")
    return Origin(**json.loads(place.read_text(encoding="utf-8"))) if place.is_file() else None


def _cells(trainings: Trainings) -> dict[str, Any]:
    """Returns the training with the lowest seed of each row."""
    firsts = [records[0].cell for records in trainings.values()]
    # On another machine a folder of ours would give another identity.
    portable = [cell for cell in firsts if not cell.dataset.startswith("folder:")]
    return {cell.id: cell.to_dict() for cell in portable}


def _commit() -> str:
    run = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    )
    return run.stdout.strip() or "unknown"


def _of() -> dict[str, str]:
    versions = {}
    for name in _VERSIONS:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions

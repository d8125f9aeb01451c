"""Evidence files: tables that stand behind pages, each with the command that made it.

``NAME.csv`` is a study's table, or ``NAME.txt`` what it says of its figure. ``NAME.json`` beside it
says where it comes from, and has the configuration of one training of each row, by which a row is
known that today's code would train otherwise.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from math import isclose
from pathlib import Path
from statistics import fmean
from typing import Any

import core
from core.lazy import pandas as pd
from core.policies import PolicyConfig
from hpo.cells.cell import Cell
from hpo.cells.record import CellRecord
from hpo.report.records import final_trainings, finished_finals, load_records, settings_of
from hpo.storage.atomic import write_atomically, write_csv

Policies = Callable[[str], Mapping[str, PolicyConfig]]
"""Returns the policies that the rows of a command have today, by key."""

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

    def stale(self, policies: Policies) -> set[tuple[str, str]]:
        """Returns method and data set of the rows that today's code would train otherwise."""
        today = policies(self.command)
        return {
            (data["method"], shown_dataset(data["training"]["dataset"]))
            for cell_id, data in self.cells.items()
            if not _is_today(cell_id, data, today)
        }


def _is_today(cell_id: str, data: Mapping[str, Any], today: Mapping[str, PolicyConfig]) -> bool:
    try:
        cell = Cell.from_dict(data)
    except (ValueError, TypeError, KeyError):  # settings that are no longer there
        return False
    policy = cell.training.policy
    return cell.id == cell_id and today.get(cell.method, policy) == policy


def shown_dataset(name: str) -> str:
    """Returns a data set's name without the folder of a machine: "folder:CIFAR10"."""
    kind, _, path = name.partition(":")
    return f"folder:{Path(path).name}" if kind == "folder" else name


def no_policies(command: str) -> Mapping[str, PolicyConfig]:
    """Returns none: no row has changed."""
    return {}


def take(
    table: Path,
    name: str,
    command: str,
    setting: str,
    evidence: Path,
    policies: Policies = no_policies,
) -> list[Path]:
    """Copies a study's table or text to the evidence files, and writes down where it comes from.

    Args:
        table: STUDY.csv, STUDY.md or another CSV in the output folder of a study, whose trainings
            are there.
        name: of the evidence.
        command: what was run.
        setting: see `Origin`.
        evidence: the folder of the evidence files.
        policies: of today's rows. By them and by the table's means the study's trainings are known
            where others are stored beside them.

    Returns:
        The two files.

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
    origin = Origin(
        command=_without_folders(command),
        commit=_commit(),
        date=date.today().isoformat(),
        versions={"python": platform.python_version(), "metamixup-hpo": core.__version__, **_of()},
        setting=setting,
        cells=_cells(table, policies(command)),
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
    return [kept, stated]


def _without_folders(text: str) -> str:
    return re.sub(r"folder:\S+", lambda name: shown_dataset(name[0]), text)


def read_table(path: Path) -> pd.DataFrame:
    """Returns a CSV; only what is empty is missing (a method may be called none)."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def read_origin(path: Path) -> Origin | None:
    """Returns where the table ``path`` comes from, None where nothing says so."""
    place = path.with_suffix(".json")
    return Origin(**json.loads(place.read_text(encoding="utf-8"))) if place.is_file() else None


def _cells(table: Path, today: Mapping[str, PolicyConfig]) -> dict[str, Any]:
    """Returns a training of each row and data set of a table: of several configurations in its
    folder one with the table's mean error, else of today's policy, and its first seed."""
    means = _means(table)
    named = ({*means} or None) if table.suffix == ".md" else _named(read_table(table))
    kinds: dict[tuple[str, str, str], list[CellRecord]] = defaultdict(list)
    for record in final_trainings(load_records(table.parent)):
        method, dataset = record.cell.method, shown_dataset(record.cell.dataset)
        if named is None or (method, dataset) in named:
            kinds[method, dataset, settings_of(record.cell)].append(record)
    chosen: dict[tuple[str, str], tuple[tuple[bool, bool, int], Cell]] = {}
    for (method, dataset, _), records in kinds.items():
        cell = min((record.cell for record in records), key=lambda cell: cell.seed)
        policy = cell.training.policy
        line = means.get((method, dataset))
        is_other = line is None or not _has_mean(records, *line)
        order = (is_other, today.get(method, policy) != policy, cell.seed)
        if (method, dataset) not in chosen or order < chosen[method, dataset][0]:
            chosen[method, dataset] = order, cell
    # On another machine a folder of ours would give another identity.
    portable = [cell for _, cell in chosen.values() if not cell.dataset.startswith("folder:")]
    return {cell.id: cell.to_dict() for cell in portable}


def _named(frame: pd.DataFrame) -> set[tuple[str, str]] | None:
    """Returns the rows and data sets of a table, None of one that names no data set."""
    if "dataset" not in frame:
        return None
    datasets = frame["dataset"].map(shown_dataset)
    return set(zip(frame.get("method", ()), datasets, strict=False))


def _means(table: Path) -> dict[tuple[str, str], tuple[int, float]]:
    """Returns number and mean of the errors of each row and data set, as the table says them or
    the one that its study wrote beside it."""
    parts = table.stem.split("-")
    stems = [f"{table.stem}-errors", *("-".join(parts[:n]) for n in range(len(parts), 0, -1))]
    for path in (table.parent / f"{stem}.csv" for stem in stems):
        frame = read_table(path) if path.is_file() else pd.DataFrame()
        if {"method", "dataset", "n_seeds", "mean_error"} <= {*frame}:
            return {
                (line["method"], shown_dataset(line["dataset"])): (
                    int(line["n_seeds"]),
                    line["mean_error"],
                )
                for line in frame.to_dict("records")
            }
    return {}


def _has_mean(records: Sequence[CellRecord], n: int, mean: float) -> bool:
    """Says whether ``n`` trainings whose seeds follow each other have that mean error, as a table
    says it."""
    by_seed = sorted(finished_finals(records), key=lambda record: record.cell.seed)
    errors = [record.trained.test_error for record in by_seed]
    means = (fmean(errors[i : i + n]) for i in range(len(errors) - n + 1) if n)
    return any(isclose(one, mean, rel_tol=0, abs_tol=1e-4) for one in means)


def _commit() -> str:
    run = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    )
    return run.stdout.strip() or "unknown"


def _of() -> dict[str, str]:
    versions = {}
    for name in _VERSIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions

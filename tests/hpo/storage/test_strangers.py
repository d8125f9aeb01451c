"""A folder or a storage from a stranger: whatever file of it is a pickle, nothing of it is run.

Checkpoints: tests/core/training/test_checkpoint.py. Tune's own state and the ledger of what MLflow
misses: tests/system/faults. That no source file unpickles at all: tests/house/test_safety.py.
"""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import optuna
import pytest

from hpo.bench.cost.records import GroupStore
from hpo.cells.store import CellStore, StoreError
from hpo.optuna_study import open_storage
from hpo.storage.output_folder import study_id
from hpo.tracking.tracker import TrackingError, check_tracking_uri
from tests.support.hostile import Hostile


@pytest.fixture
def hostile(tmp_path: Path) -> Iterator[bytes]:
    """Yields a pickle in letters, so that a column of text takes it too; it was never run."""
    mark = tmp_path / "ran"
    text = pickle.dumps(Hostile(mark), protocol=0)
    assert text.isascii()
    yield text
    assert not mark.exists()
    pickle.loads(text)  # and it would have, in other hands
    assert mark.exists()


def load_cell(folder: Path) -> None:
    CellStore(folder).load("x")


def list_cells(folder: Path) -> None:
    CellStore(folder).records()


def load_group(folder: Path) -> None:
    GroupStore(folder).load("x")


def identify(folder: Path) -> None:
    study_id(folder, "table2")


def track(folder: Path) -> None:
    check_tracking_uri(f"sqlite:///{folder}/mlflow.db")


@pytest.mark.parametrize(
    ("name", "read", "error"),
    [
        ("cells/x/result.json", load_cell, StoreError),
        ("cells/x/result.json", list_cells, StoreError),
        ("groups/x.json", load_group, StoreError),
        ("studies.json", identify, ValueError),
        ("mlflow.db", track, TrackingError),
    ],
)
def test_a_file_that_is_a_pickle_is_refused(
    name: str,
    read: Callable[[Path], None],
    error: type[Exception],
    hostile: bytes,
    tmp_path: Path,
) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(hostile)
    with pytest.raises(error, match=Path(name).name):
        read(tmp_path)


def trials(storage: str) -> list[optuna.trial.FrozenTrial]:
    study = optuna.create_study(
        storage=open_storage(storage), study_name="alpha", load_if_exists=True
    )
    study.enqueue_trial({"alpha": 1.0})
    return study.get_trials()


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_search_from_a_stranger(hostile: bytes, tmp_path: Path) -> None:
    # A journal in place of which there is a pickle, and one with pickles between its lines.
    for whole in (True, False):
        journal = tmp_path / f"alpha-{whole}.log"
        before = b"" if whole else journal_of_one_trial(journal)
        journal.write_bytes(hostile if whole else before + hostile + b"\n" + before)
        with suppress(ValueError, KeyError, AttributeError, TypeError):  # it may refuse
            trials(str(journal))
    # A database, every text of which is one.
    database = tmp_path / "alpha.db"
    uri = f"sqlite:///{database}"
    first = len(trials(uri))
    with closing(sqlite3.connect(database)) as connection:
        tables = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table'"
        ).fetchall()
        changed = 0
        for (table,) in tables:
            for _, column, kind, *_ in connection.execute(f"PRAGMA table_info({table})").fetchall():
                if kind in ("TEXT", "BLOB") or column.endswith("_json"):
                    text = hostile.decode()
                    query = f"UPDATE {table} SET {column} = ?"
                    changed += connection.execute(query, (text,)).rowcount
        connection.commit()
    assert first > 0
    assert changed > 0
    with suppress(ValueError, KeyError, TypeError):
        trials(uri)


def journal_of_one_trial(path: Path) -> bytes:
    trials(str(path))
    return path.read_bytes()

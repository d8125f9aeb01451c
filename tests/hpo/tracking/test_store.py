"""Where records go, and what becomes of a study whose store goes away."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

import hpo
from hpo.cells.record import CellRecord
from hpo.storage.atomic import sweep
from hpo.tracking.tracker import (
    StudyTracker,
    TrackingError,
    check_tracking_uri,
    default_tracking_uri,
)
from mlflow import MlflowClient

MakeRecord = Callable[..., CellRecord]


def open_tracker(output: Path, uri: str | None = None, **params: Any) -> StudyTracker:
    return StudyTracker(
        uri, output=output, experiment="table2", study_id="table2-1234", params=params
    )


def rows(output: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(output / "mlflow.db")) as database:
        return database.execute(query).fetchall()


def statuses(output: Path) -> dict[str, str]:
    """Status by run name, of the runs that are not deleted; names must be unique."""
    found = rows(output, "SELECT name, status FROM runs WHERE lifecycle_stage = 'active'")
    assert len(dict(found)) == len(found), "duplicated runs"
    return dict(found)


def metric(output: Path, run: str, key: str) -> list[tuple[int, float]]:
    return rows(
        output,
        "SELECT step, value FROM metrics JOIN runs USING (run_uuid) WHERE lifecycle_stage = "
        f"'active' AND name = '{run}' AND key = '{key}' ORDER BY step, timestamp",
    )


def train(tracker: StudyTracker, record: CellRecord, epochs: slice = slice(None)) -> None:
    tracker.start_cell(record.cell)
    for metrics in record.result["history"][epochs]:
        tracker.epoch(record.cell.id, metrics)


@pytest.fixture
def output(tmp_path: Path, empty_store: Path) -> Path:
    """An output folder whose default store is there and empty."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def closed_port() -> Iterator[int]:
    # Bound and never listening: connections are refused, and nobody else can take the port.
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def test_an_unreachable_server_is_named_within_seconds(tmp_path: Path, closed_port: int) -> None:
    uri = f"http://127.0.0.1:{closed_port}"
    start = time.monotonic()
    with pytest.raises(TrackingError) as caught:
        open_tracker(tmp_path, uri)
    assert time.monotonic() - start < 15
    message = str(caught.value)
    assert uri in message
    assert f"mlflow server --port {closed_port}" in message
    assert "leave out --tracking-uri" in message


@pytest.mark.parametrize("keep", [100, 5_000, 200_000])
def test_a_file_that_was_cut_short_is_to_be_moved_away(
    keep: int, tmp_path: Path, empty_store: Path
) -> None:
    store = tmp_path / "mlflow.db"
    store.write_bytes(empty_store.read_bytes()[:keep])
    with pytest.raises(TrackingError) as caught:
        open_tracker(tmp_path)
    assert f"{store} cannot be used: " in str(caught.value)
    assert "malformed. Move that file away and run the same command again: it" in str(caught.value)
    assert "--tracking-uri" not in str(caught.value)
    store.write_bytes(b"It is no database at all. " * 100)
    with pytest.raises(TrackingError, match=r"file is not a database. Move that file away"):
        check_tracking_uri(default_tracking_uri(tmp_path))


CREATE = """
import os, sys
from pathlib import Path
from mlflow.store.db import utils
from hpo.tracking.store import check_tracking_uri, local_tracking_uri
utils._upgrade_db = lambda engine: os.kill(os.getpid(), 9)  # some tables are there by then
check_tracking_uri(local_tracking_uri(Path(sys.argv[1])))
"""


def test_killed_while_it_creates_the_store_it_leaves_none(tmp_path: Path) -> None:
    root = Path(str(hpo.__file__)).parents[1]
    done = subprocess.run([sys.executable, "-c", CREATE, str(tmp_path)], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    [aside] = tmp_path.iterdir()
    assert aside.stat().st_size > 10_000
    check_tracking_uri(default_tracking_uri(tmp_path))
    assert rows(tmp_path, "SELECT name FROM experiments") == [("Default",)]
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
    # As earlier versions left one.
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "half.db")  # MLflow has the other open
    with closing(sqlite3.connect(tmp_path / "half.db")) as database:
        database.executescript("DELETE FROM alembic_version; DROP TABLE logged_models")
    with pytest.raises(TrackingError, match=r"duplicate column .*Move that file away"):
        check_tracking_uri(f"sqlite:///{tmp_path}/half.db")


def test_a_full_disk_is_told_with_the_way_out(output: Path) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MlflowException(
            "(raised as a result of Query-invoked autoflush; consider this and that)\n"
            "(sqlite3.OperationalError) database or disk is full\n[SQL: INSERT ...]"
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", full)
        with pytest.raises(TrackingError) as caught:
            open_tracker(output)
    told = "(sqlite3.OperationalError) database or disk is full. Free space and run the same"
    assert told in str(caught.value)
    assert "autoflush" not in str(caught.value)


def test_an_experiment_that_another_study_has_just_made_is_shared(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both looked before either had made it."""
    looked: list[str] = []
    real = MlflowClient.get_experiment_by_name

    def look(client: MlflowClient, name: str) -> Any:
        looked.append(name)
        if len(looked) == 1:
            client.create_experiment(name)
            return None
        return real(client, name)

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", look)
    with open_tracker(output):
        pass
    assert rows(output, "SELECT COUNT(*) FROM experiments WHERE name = 'table2'") == [(1,)]
    assert statuses(output) == {"table2": "FINISHED"}


@pytest.mark.parametrize("uri", ["./mlruns", "ftp://somewhere"])
def test_other_addresses_are_refused_with_the_way_out(uri: str) -> None:
    with pytest.raises(TrackingError, match=r"sqlite:////ABSOLUTE/PATH\.db"):
        check_tracking_uri(uri)


def test_a_file_that_is_no_database_is_refused_without_ten_retries(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is text, long enough to look like a header" * 20)
    start = time.monotonic()
    with pytest.raises(TrackingError, match="not a database"):
        check_tracking_uri(default_tracking_uri(tmp_path))
    assert time.monotonic() - start < 10


def test_a_password_is_not_repeated(closed_port: int) -> None:
    with pytest.raises(TrackingError) as caught:
        check_tracking_uri(f"http://me:secret@127.0.0.1:{closed_port}")
    assert "http://me:***@" in str(caught.value)


def test_a_deleted_experiment_says_how_to_get_it_back(output: Path) -> None:
    with open_tracker(output) as tracker:
        pass
    tracker._client.delete_experiment(tracker._experiment_id)
    with pytest.raises(TrackingError, match="mlflow experiments restore"):
        open_tracker(output)


def test_a_study_survives_a_store_that_goes_away(
    output: Path,
    make_record: MakeRecord,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = make_record(seed=0), make_record(seed=1)
    tracker = open_tracker(output)
    calls = 0

    def away(*args: Any, **values: Any) -> None:
        nonlocal calls
        calls += 1
        raise OSError("no route to host")

    with caplog.at_level(logging.WARNING), tracker:
        with monkeypatch.context() as outage:
            outage.setattr(tracker._client, "create_run", away)
            for record in (first, second):
                train(tracker, record)
                tracker.end_cell(record)
        assert calls == 1  # asked again a minute later, not at every epoch
    assert [record.message for record in caplog.records if "no route" in record.message]
    # The store is back at the end: everything is there.
    assert set(statuses(output)) == {"table2", first.cell.id, second.cell.id}
    assert set(statuses(output).values()) == {"FINISHED"}
    assert len(metric(output, second.cell.id, "train_loss")) == 2


def test_a_store_that_stays_away_is_an_error_at_the_end(
    output: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: Any, **values: Any) -> None:
        raise OSError("no route to host")

    tracker = open_tracker(output)
    tracker.start_cell(make_record().cell)
    with monkeypatch.context() as outage:
        outage.setattr(tracker._client, "set_terminated", away)
        with pytest.raises(TrackingError, match=r"incomplete: no route.*hpo\.complete_tracking"):
            tracker.close("FINISHED")
    with open_tracker(output) as tracker:
        tracker.end_cell(make_record())
    assert set(statuses(output).values()) == {"FINISHED"}


def test_a_cell_whose_driver_died_before_its_final_state_gets_it_later(
    output: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: Any, **values: Any) -> None:
        raise OSError("no route to host")

    record = make_record()
    dead = open_tracker(output)
    monkeypatch.setattr(dead._client, "set_terminated", away)
    dead.end_cell(record)
    (output / "mlflow-pending.jsonl").unlink()  # as if it died before it could keep that
    for _ in range(2):  # the second invocation kills the run and does not come to the cell
        tracker = open_tracker(output)
        assert statuses(output)[record.cell.id] == "KILLED"
    with tracker:
        tracker.end_cell(record)
    assert statuses(output) == {"table2": "FINISHED", record.cell.id: "FINISHED"}


def test_the_environment_is_left_alone(output: Path, make_record: MakeRecord) -> None:
    before = dict(os.environ)
    with open_tracker(output) as tracker:
        tracker.end_cell(make_record())
        assert {key: value for key, value in os.environ.items() if key in before} == before
        assert not [key for key in os.environ if key.startswith("MLFLOW_HTTP")]


def test_the_way_to_the_ui(tmp_path: Path) -> None:
    with open_tracker(tmp_path) as tracker:
        command = f'mlflow ui --backend-store-uri "sqlite:///{tmp_path}/mlflow.db"'
        assert tracker.how_to_open == command


def test_a_store_in_trouble_is_asked_briefly_until_it_is_back(
    output: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.tracking.writing._RETRY_SECONDS", 0.0)
    monkeypatch.setattr("hpo.tracking.writing._REST", 0.0)
    tracker = open_tracker(output)
    create = tracker._client.create_run
    patience: list[tuple[str, str]] = []
    # The second cell comes after another try of the first, and the third with a third.
    answers = iter([False, False, True, True, True, True])

    def sometimes(*args: Any, **values: Any) -> Any:
        limits = ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES")
        patience.append((os.environ[limits[0]], os.environ[limits[1]]))
        if not next(answers):
            raise OSError("no route to host")
        return create(*args, **values)

    with tracker:
        monkeypatch.setattr(tracker._client, "create_run", sometimes)
        for seed in range(4):
            tracker.start_cell(make_record(seed=seed).cell)
        assert patience == [("10", "1"), *[("4", "1")] * 2, *[("10", "1")] * 3]
        monkeypatch.undo()
    assert len(statuses(output)) == 5


def test_artifacts_that_are_refused_do_not_keep_records_away(
    output: Path,
    make_record: MakeRecord,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*args: Any) -> None:
        raise ModuleNotFoundError("No module named 'boto3'")

    (output / "table2.csv").write_text("a,b\n")
    record = make_record()
    tracker = open_tracker(output)
    with monkeypatch.context() as refusal:
        refusal.setattr(tracker._client, "log_artifact", refuse)
        tracker.log_figure_files([output / "table2.csv"])
        tracker.end_cell(record)
        with pytest.raises(TrackingError, match="incomplete: No module named 'boto3'"):
            tracker.close("FINISHED")
    assert [r.message for r in caplog.records if "does not take files (No module" in r.message]
    assert statuses(output) == {"table2": "FINISHED", record.cell.id: "FINISHED"}
    assert len(metric(output, record.cell.id, "train_loss")) == 2
    with open_tracker(output) as tracker:
        tracker.log_figure_files([output / "table2.csv"])
    assert list((output / "mlartifacts").rglob("table2.csv"))

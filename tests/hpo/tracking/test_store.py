"""Where records go, and what becomes of a study whose store goes away."""

from __future__ import annotations

import errno
import os
import re
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
import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path

import hpo
from hpo.cells.record import CellRecord
from hpo.storage.atomic import in_place_of, sweep
from hpo.tracking import store
from hpo.tracking.store import mlflow_settings
from hpo.tracking.tracker import (
    TrackingError,
    check_tracking_uri,
    default_tracking_uri,
)
from hpo.tracking.trials import TrackedComparison
from mlflow import MlflowClient

Study = Any  # of conftest.py
Train = Callable[..., None]
MakeRecord = Callable[..., CellRecord]


@pytest.fixture
def closed_port() -> Iterator[int]:
    # Bound and never listening: connections are refused, and nobody else can take the port.
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Returns the seconds of each pause that is asked for, and not made."""
    asked: list[float] = []
    monkeypatch.setattr(time, "sleep", asked.append)
    return asked


def test_an_unreachable_server_is_named_within_seconds(
    tmp_path: Path, closed_port: int, pauses: list[float]
) -> None:
    uri = f"http://127.0.0.1:{closed_port}"
    with pytest.raises(TrackingError) as caught:
        check_tracking_uri(uri)
    assert sum(pauses) < 10
    message = str(caught.value)
    assert uri in message
    assert f"mlflow server --port {closed_port}" in message
    assert "leave out --tracking-uri" in message


@pytest.mark.parametrize("keep", [100, 5_000, 200_000])
def test_a_file_that_was_cut_short_is_to_be_moved_away(
    keep: int, tmp_path: Path, empty_store: Path, pauses: list[float]
) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(empty_store.read_bytes()[:keep])
    with pytest.raises(TrackingError) as caught:
        check_tracking_uri(default_tracking_uri(tmp_path))
    assert f"{path} cannot be used: " in str(caught.value)
    assert "malformed. Move that file away and run the same command again: it" in str(caught.value)
    assert "--tracking-uri" not in str(caught.value)
    path.write_bytes(b"It is no database at all. " * 100)
    with pytest.raises(TrackingError, match=r"file is not a database. Move that file away"):
        check_tracking_uri(default_tracking_uri(tmp_path))
    assert sum(pauses) < 5  # without MLflow's ten retries


CREATE = """
import os, sys
from pathlib import Path
from mlflow.store.db import utils
from hpo.tracking.store import check_tracking_uri
from hpo.tracking.uris import local_tracking_uri
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
    with mlflow_settings():
        experiments = MlflowClient(default_tracking_uri(tmp_path)).search_experiments()
    assert [experiment.name for experiment in experiments] == ["Default"]
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
    # As earlier versions left one.
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "half.db")  # MLflow has the other open
    with closing(sqlite3.connect(tmp_path / "half.db")) as database:
        database.executescript("DELETE FROM alembic_version; DROP TABLE logged_models")
    with pytest.raises(TrackingError, match=r"duplicate column .*Move that file away"):
        check_tracking_uri(f"sqlite:///{tmp_path}/half.db")


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("before", ["nothing", "an empty file", "a link to nothing"])
def test_of_studies_that_start_together_all_have_the_file_of_the_first(
    before: str, links: bool, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlflow.db"
    if before == "an empty file":
        path.touch()
    elif before == "a link to nothing":
        path.symlink_to(tmp_path / "elsewhere.db")

    def overtaken(uri: str) -> None:
        """Another study has its file there, and open, while ours is made."""
        shutil.copy(empty_store, path.resolve())
        ours = sqlalchemy.make_url(uri).database
        assert ours is not None
        shutil.copy(empty_store, ours)
        first.append(path.stat().st_ino)

    def no_links(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    first: list[int] = []
    monkeypatch.setattr(store, "create_tables", overtaken)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    for _ in range(2):
        check_tracking_uri(default_tracking_uri(tmp_path))
    assert [path.stat().st_ino] == first
    assert path.is_symlink() == (before == "a link to nothing")
    assert not list(tmp_path.glob(".*"))


def test_a_store_is_made_on_a_file_system_without_links(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    with in_place_of(tmp_path / "mlflow.db", unless_there=True) as aside:
        shutil.copy(empty_store, aside)
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_full_disk_is_told_with_the_way_out(study: Study) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MlflowException(
            "(raised as a result of Query-invoked autoflush; consider this and that)\n"
            "(sqlite3.OperationalError) database or disk is full\n[SQL: INSERT ...]"
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", full)
        with pytest.raises(TrackingError) as caught:
            study.open()
    expected = "(sqlite3.OperationalError) database or disk is full. Free space and run the same"
    assert expected in str(caught.value)
    assert "autoflush" not in str(caught.value)


def test_an_experiment_that_another_study_has_just_made_is_shared(
    study: Study, monkeypatch: pytest.MonkeyPatch
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
    with study.open():
        pass
    assert study.statuses() == {"table2": "FINISHED"}


@pytest.mark.parametrize("uri", ["./mlruns", "ftp://somewhere"])
def test_other_addresses_are_refused_with_the_way_out(uri: str) -> None:
    with pytest.raises(TrackingError, match=r"sqlite:////ABSOLUTE/PATH\.db"):
        check_tracking_uri(uri)


def test_an_empty_address_is_no_store(study: Study) -> None:
    for uri in ("", " "):
        expected = pytest.raises(ValueError, match=r"^tracking_uri names no store \(it is empty")
        with expected:
            study.open(uri)
        with expected:
            TrackedComparison(uri, study.output, "compare", "identity")
    assert not list(study.output.iterdir())


def test_a_deleted_experiment_says_how_to_get_it_back(study: Study) -> None:
    with study.open():
        pass
    study.client.delete_experiment(study.run("table2").info.experiment_id)
    uri = f"sqlite:///{study.output}/mlflow.db"
    with pytest.raises(TrackingError) as caught:
        study.open()
    restore, gc = re.findall("`([^`]*mlflow [^`]*)`", str(caught.value))
    assert restore == f"MLFLOW_TRACKING_URI={uri} mlflow experiments restore --experiment-id 1"
    assert gc == f"mlflow gc --backend-store-uri {uri}"


def test_a_copied_folder_leaves_the_first_alone(study: Study, make_record: MakeRecord) -> None:
    """Runs and new artifacts of a copied, then moved store lie in its folder, wherever that is."""
    with study.open() as tracker:
        tracker.end_cell(make_record())
    copy, moved = (type(study)(study.output.parent / name) for name in ("copy", "moved 1%20"))
    shutil.copytree(study.output, copy.output)
    with copy.open():
        pass
    shutil.copytree(copy.output, moved.output)
    with moved.open():
        pass
    for each in (study, copy, moved):
        places = [run.info.artifact_uri for run in each.runs()]
        with mlflow_settings():
            places.append(each.client.get_experiment_by_name("table2").artifact_location)
        for place in places:
            path = Path(local_file_uri_to_path(place))
            assert path.is_relative_to(each.output / "mlartifacts")
    assert set(moved.statuses().values()) == {"FINISHED"}


def test_an_experiment_of_another_output_folder_keeps_its_place(
    study: Study, make_record: MakeRecord
) -> None:
    """A part of a reproduction has a folder of its own, and the store of all."""
    table = study.output / "table2.csv"
    part = type(study)(study.output / "labels-4000")
    (part.output / "mlartifacts").mkdir(parents=True)
    with part.open(default_tracking_uri(study.output)) as tracker:
        tracker.end_cell(make_record())
        table.write_text("a")
        tracker.log_figure_files([table])
    before = {run.info.run_id: run.info.artifact_uri for run in study.runs()}
    assert part.files("table2.csv") == ["table2.csv"]
    with study.open(study_id="5678"):
        pass
    after = {run.info.run_id: run.info.artifact_uri for run in study.runs()}
    assert before == {run: after[run] for run in before}
    with mlflow_settings():
        place = study.client.get_experiment_by_name("table2").artifact_location
    assert place == str(part.output / "mlartifacts")


def test_files_that_are_in_both_folders_are_found_where_they_are(study: Study) -> None:
    """One run's were copied with the folder, and another's were not."""
    table = study.output / "table2.csv"
    table.write_text("a")
    for study_id in ("1234", "5678"):
        with study.open(study_id=study_id) as tracker:
            tracker.log_figure_files([table])
    copy = type(study)(study.output.parent / "copy")
    shutil.copytree(study.output, copy.output)
    lost, kept = (run.info.run_id for run in study.runs())
    shutil.rmtree(copy.output / "mlartifacts" / lost)
    with copy.open():
        pass
    places = {run.info.run_id: Path(run.info.artifact_uri) for run in copy.runs()}
    assert places[lost] == study.output / "mlartifacts" / lost / "artifacts"
    assert places[kept] == copy.output / "mlartifacts" / kept / "artifacts"
    assert all(list(place.rglob("table2.csv")) for place in places.values())


def test_a_cell_whose_driver_died_before_its_final_state_gets_it_later(
    study: Study, make_record: MakeRecord, outage: Any
) -> None:
    record = make_record()
    dead = study.open()
    with outage("set_terminated"):
        dead.end_cell(record)
    (study.output / "mlflow-pending-local-table2.json").unlink()  # it died before it kept that
    for _ in range(2):  # the second invocation kills the run and does not come to the cell
        tracker = study.open()
        assert study.statuses()[record.cell.id] == "KILLED"
    with tracker:
        tracker.end_cell(record)
    assert study.statuses() == {"table2": "FINISHED", record.cell.id: "FINISHED"}


def test_the_environment_is_left_alone(study: Study, make_record: MakeRecord) -> None:
    before = dict(os.environ)
    with study.open() as tracker:
        tracker.end_cell(make_record())
        assert {key: value for key, value in os.environ.items() if key in before} == before
        assert not [key for key in os.environ if key.startswith("MLFLOW_HTTP")]


def test_the_way_to_the_ui(study: Study) -> None:
    with study.open() as tracker:
        command = f'mlflow ui --backend-store-uri "sqlite:///{study.output}/mlflow.db"'
        assert tracker.how_to_open == command

"""How runs end, however their driver does."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from hpo.cells.record import CellRecord
from hpo.tracking.tracker import StudyTracker, TrackingError
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


@contextmanager
def interrupted(tracker: StudyTracker, error: BaseException) -> Iterator[StudyTracker]:
    """The tracker's block, ended by ``error`` after what the test does in it."""

    def fail() -> None:
        raise error

    with ExitStack() as stack:
        stack.enter_context(pytest.raises(type(error)))
        yield stack.enter_context(tracker)
        fail()


@pytest.fixture
def output(tmp_path: Path, empty_store: Path) -> Path:
    """An output folder whose default store is there and empty."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture(autouse=True)
def sigterm() -> Iterator[None]:
    """Trackers that a test leaves open, as a killed driver does, leave their handler too."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def runs(output: Path, name: str) -> list[tuple[str, str]]:
    """Stage (active or deleted) and status of all runs of this name, sorted."""
    query = f"SELECT lifecycle_stage, status FROM runs WHERE name = '{name}'"
    return sorted(rows(output, query))


@contextmanager
def after(method: str, act: Callable[[], Any]) -> Iterator[None]:
    """The client's ``method`` does its work, and then ``act`` comes before its answer."""
    original = getattr(MlflowClient, method)

    def double(self: MlflowClient, *args: Any, **values: Any) -> Any:
        answer = original(self, *args, **values)
        act()
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowClient, method, double)
        yield


def time_out() -> None:
    raise OSError("timed out")


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("boom"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(1), "KILLED"),
    ],
)
def test_every_way_out_ends_every_run(
    output: Path, make_record: MakeRecord, error: BaseException, expected: str
) -> None:
    record = make_record()
    with interrupted(open_tracker(output), error) as tracker:
        train(tracker, record)
    assert statuses(output) == {"table2": expected, record.cell.id: expected}
    # What was buffered is written before the end.
    assert len(metric(output, record.cell.id, "train_loss")) == 2


def test_sigterm_ends_every_run_and_the_handler_is_put_back(
    output: Path, make_record: MakeRecord
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    record = make_record()

    def study() -> None:
        with open_tracker(output) as tracker:
            tracker.start_cell(record.cell)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    with pytest.raises(SystemExit) as left:
        study()
    assert left.value.code == 128 + signal.SIGTERM
    assert set(statuses(output).values()) == {"KILLED"}
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_cell_left_open_by_a_finished_study_is_killed(
    output: Path, make_record: MakeRecord
) -> None:
    record = make_record()
    tracker = open_tracker(output)
    tracker.start_cell(record.cell)
    tracker.close("FINISHED")
    tracker.close("FAILED")
    assert statuses(output) == {"table2": "FINISHED", record.cell.id: "KILLED"}


def test_runs_of_a_driver_that_died_are_killed_unless_resumed(
    output: Path, make_record: MakeRecord
) -> None:
    resumed, abandoned = make_record(seed=0), make_record(seed=1)
    dead = open_tracker(output)
    dead.start_cell(resumed.cell)
    dead.start_cell(abandoned.cell)
    del dead
    assert set(statuses(output).values()) == {"RUNNING"}
    with open_tracker(output) as tracker:
        tracker.start_cell(resumed.cell)
        tracker.end_cell(resumed)
    assert statuses(output) == {
        "table2": "FINISHED",
        resumed.cell.id: "FINISHED",
        abandoned.cell.id: "KILLED",
    }


def test_runs_of_a_driver_that_died_are_not_running_once_the_study_is_opened(
    output: Path, make_record: MakeRecord
) -> None:
    record = make_record()
    open_tracker(output).start_cell(record.cell)
    tracker = open_tracker(output)
    assert statuses(output) == {"table2": "RUNNING", record.cell.id: "KILLED"}
    tracker.start_cell(record.cell)
    assert statuses(output) == {"table2": "RUNNING", record.cell.id: "RUNNING"}


def test_a_run_whose_creation_was_not_answered_is_not_left_twice(
    output: Path, make_record: MakeRecord
) -> None:
    record = make_record()
    with open_tracker(output) as tracker:
        with after("create_run", time_out):
            tracker.start_cell(record.cell)
        tracker.end_cell(record)
    assert runs(output, record.cell.id) == [("active", "FINISHED"), ("deleted", "KILLED")]
    assert metric(output, record.cell.id, "train_loss") == [(1, 1.0), (2, 0.5)]
    assert statuses(output)["table2"] == "FINISHED"


def test_a_store_that_never_answers_a_creation_has_no_running_run(
    output: Path, make_record: MakeRecord
) -> None:
    record = make_record()
    tracker = open_tracker(output)
    with after("create_run", time_out):
        tracker.start_cell(record.cell)
        with pytest.raises(TrackingError, match="timed out"):
            tracker.close("FINISHED")
    with open_tracker(output) as tracker:
        assert [stage for stage, _ in runs(output, record.cell.id)] == ["active", "deleted"]
        tracker.end_cell(record)
    assert statuses(output) == {"table2": "FINISHED", record.cell.id: "FINISHED"}


@pytest.mark.parametrize("end", [terminate, interrupt])
def test_a_signal_while_a_run_is_created_leaves_it_once(
    output: Path, make_record: MakeRecord, end: Callable[[], None]
) -> None:
    record = make_record()

    def study() -> None:
        with open_tracker(output) as tracker, after("create_run", end):
            tracker.start_cell(record.cell)

    with pytest.raises((SystemExit, KeyboardInterrupt)):
        study()
    assert statuses(output) == {"table2": "KILLED", record.cell.id: "KILLED"}
    # A signal waits until the run's id is here; what cuts in all the same leaves one to delete.
    kept, *others = runs(output, record.cell.id)
    assert kept == ("active", "KILLED")
    assert set(others) <= {("deleted", "KILLED")}


def test_of_the_runs_that_a_dead_driver_left_twice_the_full_one_stays(
    output: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.tracking.writing._RETRY_SECONDS", 0.0)
    monkeypatch.setattr("hpo.tracking.writing._REST", 0.0)
    full, partial = make_record(seed=0), make_record(seed=1, epochs=3)
    create = MlflowClient.create_run
    with monkeypatch.context() as lost:
        # The first answer is lost inside MLflow's own retries: the second run is ours.
        lost.setattr(
            MlflowClient, "create_run", lambda *a, **v: (create(*a, **v), create(*a, **v))[1]
        )
        dead = open_tracker(output)
    for record in (full, partial):
        with after("create_run", time_out):
            dead.start_cell(record.cell)
    dead.end_cell(full)
    monkeypatch.setattr("hpo.tracking.tracker._FLUSH_SECONDS", 0.0)
    train(dead, partial, slice(0, 2))
    # Beside the study's two: what is missing is tried again with every cell, the first one twice.
    assert len(rows(output, "SELECT * FROM runs")) == 7

    tracker = open_tracker(output)
    expected = {"table2": "RUNNING", full.cell.id: "FINISHED", partial.cell.id: "KILLED"}
    assert statuses(output) == expected
    assert len(metric(output, full.cell.id, "train_loss")) == 2
    assert len(metric(output, partial.cell.id, "train_loss")) == 2
    [(parent,)] = rows(
        output, "SELECT run_uuid FROM runs WHERE name = 'table2' AND lifecycle_stage = 'active'"
    )
    children = "SELECT DISTINCT value FROM tags WHERE key = 'mlflow.parentRunId'"
    assert rows(output, children) == [(parent,)]
    tracker.close("KILLED")


def test_an_identity_that_was_replaced_is_not_left_running(
    output: Path, make_record: MakeRecord
) -> None:
    done, cut = make_record(seed=0), make_record(seed=1)
    dead = open_tracker(output)
    dead.end_cell(done)
    dead.start_cell(cut.cell)
    with StudyTracker(
        None,
        output=output,
        experiment="table2",
        study_id="table2-5678",
        params={},
        previous_study_id="table2-1234",
    ) as tracker:
        assert runs(output, done.cell.id) == [("active", "FINISHED")]
        assert runs(output, cut.cell.id) == [("active", "KILLED")]
        assert runs(output, "table2") == [("active", "KILLED"), ("active", "RUNNING")]
        tracker.start_cell(cut.cell)
    assert runs(output, cut.cell.id) == [("active", "KILLED")] * 2
    assert runs(output, "table2") == [("active", "FINISHED"), ("active", "KILLED")]


@pytest.mark.parametrize(
    ("end", "error"),
    [(terminate, SystemExit), (interrupt, KeyboardInterrupt), (time_out, TrackingError)],
)
def test_a_study_that_could_not_be_opened_is_not_left_running(
    output: Path, end: Callable[[], None], error: type[BaseException]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with after("create_run", end), pytest.raises(error):
        open_tracker(output)
    assert statuses(output) == {"table2": "KILLED"}
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_at_the_end_of_a_study_still_ends_every_run(
    output: Path, make_record: MakeRecord
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    signals = [terminate]
    tracker = open_tracker(output)
    for seed in range(2):
        tracker.start_cell(make_record(seed=seed).cell)
    with (
        after("set_terminated", lambda: signals.pop()() if signals else None),
        pytest.raises(SystemExit),
        tracker,
    ):
        pass
    assert set(statuses(output).values()) == {"KILLED"}
    assert len(statuses(output)) == 3
    assert signal.getsignal(signal.SIGTERM) == before

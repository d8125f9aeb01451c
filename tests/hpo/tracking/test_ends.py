"""How runs end, however their driver does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from mlflow.entities import ViewType

from hpo.cells.record import CellRecord
from hpo.tracking.tracker import TrackingError
from mlflow import MlflowClient

Study = Any  # of conftest.py
Train = Callable[..., None]
MakeRecord = Callable[..., CellRecord]


@pytest.fixture(autouse=True)
def sigterm() -> Iterator[None]:
    """Each test starts as a new process does: whatever ran before may have left a handler.

    Ray does, and so do the trackers that a test leaves open, as a killed driver does.
    """
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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
    time.sleep(0.5)


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
    study: Study, make_record: MakeRecord, train: Train, error: BaseException, expected: str
) -> None:
    record = make_record()
    with study.interrupted(error) as tracker:
        train(tracker, record)
    assert study.statuses() == {"table2": expected, record.cell.id: expected}
    # What was buffered is written before the end.
    assert len(study.metric(record.cell.id, "train_loss")) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
def test_a_signal_ends_every_run_and_the_handler_is_put_back(
    number: signal.Signals, study: Study, make_record: MakeRecord
) -> None:
    before = signal.getsignal(number)
    record = make_record()

    def run() -> None:
        with study.open() as tracker:
            tracker.start_cell(record.cell)
            os.kill(os.getpid(), number)
            time.sleep(0.5)

    with pytest.raises(SystemExit) as exit_:
        run()
    assert exit_.value.code == 128 + number
    assert set(study.statuses().values()) == {"KILLED"}
    assert signal.getsignal(number) == before


def test_a_study_under_nohup_goes_on_after_sighup(study: Study) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with study.open():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert set(study.statuses().values()) == {"FINISHED"}


def test_a_cell_left_open_by_a_finished_study_is_killed(
    study: Study, make_record: MakeRecord
) -> None:
    record = make_record()
    tracker = study.open()
    tracker.start_cell(record.cell)
    tracker.close("FINISHED")
    tracker.close("FAILED")
    assert study.statuses() == {"table2": "FINISHED", record.cell.id: "KILLED"}


def test_runs_of_a_driver_that_died_are_killed_unless_resumed(
    study: Study, make_record: MakeRecord
) -> None:
    resumed, abandoned = make_record(seed=0), make_record(seed=1)
    dead = study.open()
    dead.start_cell(resumed.cell)
    dead.start_cell(abandoned.cell)
    del dead
    assert set(study.statuses().values()) == {"RUNNING"}
    cells = {resumed.cell.id: "KILLED", abandoned.cell.id: "KILLED"}
    with study.open() as tracker:
        assert study.statuses() == {"table2": "RUNNING", **cells}
        tracker.start_cell(resumed.cell)
        assert study.statuses()[resumed.cell.id] == "RUNNING"
        tracker.end_cell(resumed)
    assert study.statuses() == {"table2": "FINISHED", **cells, resumed.cell.id: "FINISHED"}


def test_a_run_whose_creation_was_not_answered_is_not_left_twice(
    study: Study, make_record: MakeRecord
) -> None:
    record = make_record()
    with study.open() as tracker:
        with after("create_run", time_out):
            tracker.start_cell(record.cell)
        tracker.end_cell(record)
    assert study.stages(record.cell.id) == [("active", "FINISHED"), ("deleted", "KILLED")]
    assert study.metric(record.cell.id, "train_loss") == [(1, 1.0), (2, 0.5)]
    assert study.statuses()["table2"] == "FINISHED"


def test_a_store_that_never_answers_a_creation_has_no_running_run(
    study: Study, make_record: MakeRecord
) -> None:
    record = make_record()
    tracker = study.open()
    with after("create_run", time_out):
        tracker.start_cell(record.cell)
        with pytest.raises(TrackingError, match="timed out"):
            tracker.close("FINISHED")
    with study.open() as tracker:
        assert [stage for stage, _ in study.stages(record.cell.id)] == ["active", "deleted"]
        tracker.end_cell(record)
    assert study.statuses() == {"table2": "FINISHED", record.cell.id: "FINISHED"}


@pytest.mark.parametrize(
    ("end", "raised"), [(terminate, SystemExit), (interrupt, KeyboardInterrupt)]
)
def test_a_signal_while_a_run_is_created_leaves_it_once(
    study: Study,
    make_record: MakeRecord,
    end: Callable[[], None],
    raised: type[BaseException],
) -> None:
    record = make_record()

    def run() -> None:
        with study.open() as tracker, after("create_run", end):
            tracker.start_cell(record.cell)

    with pytest.raises(raised):
        run()
    assert study.statuses() == {"table2": "KILLED", record.cell.id: "KILLED"}
    # A signal waits until the run's id is here; what cuts in all the same leaves one to delete.
    remaining, *others = study.stages(record.cell.id)
    assert remaining == ("active", "KILLED")
    assert set(others) <= {("deleted", "KILLED")}


def test_of_the_runs_that_a_dead_driver_left_twice_the_full_one_stays(
    study: Study, make_record: MakeRecord, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.tracking.outbox.RETRY_SECONDS", 0.0)
    monkeypatch.setattr("hpo.tracking.outbox.REST", 0.0)
    full, partial = make_record(seed=0), make_record(seed=1, epochs=3)
    create = MlflowClient.create_run
    with monkeypatch.context() as lost:
        # The first answer is lost inside MLflow's own retries: the second run is ours.
        lost.setattr(
            MlflowClient, "create_run", lambda *a, **v: (create(*a, **v), create(*a, **v))[1]
        )
        dead = study.open()
    for record in (full, partial):
        with after("create_run", time_out):
            dead.start_cell(record.cell)
    dead.end_cell(full)
    monkeypatch.setattr("hpo.tracking.tracker.FLUSH_SECONDS", 0.0)
    train(dead, partial, slice(0, 2))
    # Beside the study's two: what is missing is tried again with every cell, the first one twice.
    assert len(study.runs(ViewType.ALL)) == 7

    tracker = study.open()
    expected = {"table2": "RUNNING", full.cell.id: "FINISHED", partial.cell.id: "KILLED"}
    assert study.statuses() == expected
    assert len(study.metric(full.cell.id, "train_loss")) == 2
    assert len(study.metric(partial.cell.id, "train_loss")) == 2
    parents = {run.data.tags.get("mlflow.parentRunId") for run in study.runs()}
    assert parents == {None, study.run("table2").info.run_id}
    tracker.close("KILLED")


def test_an_identity_that_was_replaced_is_not_left_running(
    study: Study, make_record: MakeRecord
) -> None:
    done, cut = make_record(seed=0), make_record(seed=1)
    dead = study.open()
    dead.end_cell(done)
    dead.start_cell(cut.cell)
    with study.open(study_id="5678", previous_study_id="1234") as tracker:
        assert study.stages(done.cell.id) == [("active", "FINISHED")]
        assert study.stages(cut.cell.id) == [("active", "KILLED")]
        assert study.stages("table2") == [("active", "KILLED"), ("active", "RUNNING")]
        tracker.start_cell(cut.cell)
    assert study.stages(cut.cell.id) == [("active", "KILLED")] * 2
    assert study.stages("table2") == [("active", "FINISHED"), ("active", "KILLED")]


@pytest.mark.parametrize(
    ("end", "error"),
    [(terminate, SystemExit), (interrupt, KeyboardInterrupt), (time_out, TrackingError)],
)
def test_a_study_that_could_not_be_opened_is_not_left_running(
    study: Study, end: Callable[[], None], error: type[BaseException]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with after("create_run", end), pytest.raises(error):
        study.open()
    assert study.statuses() == {"table2": "KILLED"}
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_at_the_end_of_a_study_still_ends_every_run(
    study: Study, make_record: MakeRecord
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    signals = [terminate]
    tracker = study.open()
    for seed in range(2):
        tracker.start_cell(make_record(seed=seed).cell)
    with (
        after("set_terminated", lambda: signals.pop()() if signals else None),
        pytest.raises(SystemExit),
        tracker,
    ):
        pass
    assert set(study.statuses().values()) == {"KILLED"}
    assert len(study.statuses()) == 3
    assert signal.getsignal(signal.SIGTERM) == before

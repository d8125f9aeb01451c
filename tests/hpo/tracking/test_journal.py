"""What a store missed is kept on disk, and sent once, by whoever comes next."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from hpo import complete_tracking
from hpo.cells.record import CellRecord
from hpo.cells.summary import SummaryRow
from hpo.tracking import writing
from hpo.tracking.journal import Journal
from hpo.tracking.tracker import StudyTracker, TrackingError, default_tracking_uri
from hpo.tracking.writing import Writing
from mlflow import MlflowClient

MakeRecord = Callable[..., CellRecord]


def open_tracker(output: Path, uri: str | None = None, study_id: str = "1234") -> StudyTracker:
    return StudyTracker(uri, output=output, experiment="table2", study_id=study_id, params={})


def rows(output: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(output / "mlflow.db")) as database:
        return database.execute(query).fetchall()


def everything(output: Path) -> dict[str, Any]:
    """All that the store says of runs that are not deleted, without ids and times of writing."""
    runs = rows(output, "SELECT name, status, run_uuid FROM runs WHERE lifecycle_stage = 'active'")
    assert len({name for name, *_ in runs}) == len(runs), "duplicated runs"
    found: dict[str, Any] = {}
    for name, status, run_id in runs:
        where = f"WHERE run_uuid = '{run_id}'"
        metrics = rows(output, f"SELECT key, step, value, is_nan FROM metrics {where}")
        tags = dict(rows(output, f"SELECT key, value FROM tags {where}"))
        params = dict(rows(output, f"SELECT key, value FROM params {where}"))
        tags.pop("mlflow.parentRunId", None)
        found[name] = (status, sorted(metrics), tags, params)
    return found


def train(tracker: StudyTracker, record: CellRecord, epochs: slice = slice(None)) -> None:
    tracker.start_cell(record.cell)
    for metrics in record.result["history"][epochs]:
        tracker.epoch(record.cell.id, metrics)


FINDINGS = {"pair_epochs": [1, 2], "pair_lam": [[[0.25, None], [0.75, 0.5]], [[0.0, 1.0]] * 2]}
SUMMARY = SummaryRow("none", "digits", "", 3, 4.0, 3.5, float("nan"), 10.0, 1e5)


def study(tracker: StudyTracker, records: list[CellRecord], output: Path) -> None:
    for record in records:
        train(tracker, record)
        tracker.end_cell(record)
    tracker.summarise([SUMMARY])
    (output / "table2.csv").write_text("a,b\n")
    tracker.log_figure_files([output / "table2.csv"])


@pytest.fixture
def output(tmp_path: Path, empty_store: Path) -> Path:
    """An output folder whose default store is there and empty."""
    return folder(tmp_path / "out", empty_store)


def folder(path: Path, store: Path) -> Path:
    path.mkdir()
    shutil.copy(store, path / "mlflow.db")
    return path


@pytest.fixture
def records(make_record: MakeRecord) -> list[CellRecord]:
    return [
        make_record(seed=0, train_loss=float("inf"), findings=FINDINGS),
        make_record(seed=1, status="pruned", epochs=3),
        make_record(seed=2, status="crashed", error="worker died"),
    ]


class Outage:
    """Every writing call of every client fails while it lasts."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self._patch = patch
        self.calls = 0

    def __enter__(self) -> Outage:
        def away(*_: Any, **__: Any) -> None:
            self.calls += 1
            raise OSError("no route to host")

        self._context = self._patch.context()
        patch = self._context.__enter__()
        for name in ("create_run", "update_run", "log_batch", "set_terminated", "search_runs",
                     "delete_run", "log_artifact", "get_metric_history", "log_image",
                     "list_artifacts"):  # fmt: skip
            patch.setattr(MlflowClient, name, away)
        return self

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Outage:
    return Outage(monkeypatch)


def pending(output: Path) -> Path:
    return output / "mlflow-pending.jsonl"


@pytest.fixture
def calm(tmp_path: Path, empty_store: Path, records: list[CellRecord]) -> dict[str, Any]:
    """The store of a study that nothing disturbed."""
    out = folder(tmp_path / "calm", empty_store)
    with open_tracker(out) as tracker:
        study(tracker, records, out)
    assert not pending(out).exists()
    return everything(out)


def test_what_a_store_missed_is_sent_by_a_command(
    output: Path,
    records: list[CellRecord],
    calm: dict[str, Any],
    outage: Outage,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tracker = open_tracker(output)
    with outage:
        study(tracker, records, output)
        with pytest.raises(TrackingError, match="no route to host") as caught:
            tracker.close("FINISHED")
    message = str(caught.value)
    assert f"(runs: 5, files: 3) waits in {pending(output)}" in message
    assert f"`python -m hpo.complete_tracking {output}` sends it" in message
    assert list(everything(output)) == ["table2"]

    assert complete_tracking.main([str(output)]) == 0
    assert "runs 5, files 3" in capsys.readouterr().out
    assert everything(output) == calm
    assert not pending(output).exists()
    assert list((output / "mlartifacts").rglob("table2.csv"))
    assert len(list((output / "mlartifacts").rglob("*.png"))) == 2
    assert complete_tracking.main([str(output)]) == 0
    assert "nothing waits" in capsys.readouterr().out
    assert everything(output) == calm


def test_the_next_study_sends_it_first(
    output: Path, records: list[CellRecord], calm: dict[str, Any], outage: Outage
) -> None:
    dead = open_tracker(output)
    with outage:
        study(dead, records, output)
    del dead  # its driver was killed
    with open_tracker(output, study_id="5678"):
        pass
    found = rows(output, "SELECT name, status FROM runs ORDER BY start_time")
    assert found.pop() == ("table2", "FINISHED")
    # All that it had ended ended as it says; it itself was killed.
    expected = {name: status for name, (status, *_) in calm.items()} | {"table2": "KILLED"}
    assert dict(found) == expected
    assert not pending(output).exists()


def test_times_are_those_of_the_training_not_of_the_sending(
    output: Path, make_record: MakeRecord, outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_700_000_000_000]
    monkeypatch.setattr("time.time_ns", lambda: now[0] * 1_000_000)
    record = make_record(epochs=3)
    dead = open_tracker(output)
    with outage:
        dead.start_cell(record.cell)
        for metrics in record.result["history"]:
            now[0] += 1000
            dead.epoch(record.cell.id, metrics)
        dead.end_cell(record)
    now[0] += 3_600_000
    assert complete_tracking.main([str(output)]) == 0
    name = record.cell.id
    [times] = rows(output, f"SELECT start_time, end_time FROM runs WHERE name = '{name}'")
    assert times == (1_700_000_000_000, 1_700_000_003_001)
    steps = rows(output, "SELECT timestamp FROM metrics WHERE key = 'epoch' ORDER BY step")
    assert steps == [(1_700_000_001_000,), (1_700_000_002_000,), (1_700_000_003_000,)]


def test_a_kill_while_sending_leaves_everything_once(
    output: Path,
    records: list[CellRecord],
    calm: dict[str, Any],
    outage: Outage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracker = open_tracker(output)
    with outage:
        study(tracker, records, output)
        with pytest.raises(TrackingError):
            tracker.close("FINISHED")
    kills = 0
    for answered in (0, 0, 1, 3, 5, 7, 10, 100):
        with killed_after(monkeypatch, answered):
            try:
                assert complete_tracking.main([str(output)]) == 0
                break
            except SystemExit:
                kills += 1
                assert pending(output).exists()
    assert kills >= 4
    assert everything(output) == calm
    assert len(list((output / "mlartifacts").rglob("*.png"))) == 2


@contextmanager
def killed_after(monkeypatch: pytest.MonkeyPatch, answered: int) -> Iterator[None]:
    """So many writing calls are answered; the next is done, and nobody hears of it."""
    left = [answered]
    with monkeypatch.context() as patch:
        for name in ("create_run", "log_batch", "set_terminated", "log_image"):
            original = getattr(MlflowClient, name)

            def once(*args: Any, _original: Any = original, **values: Any) -> Any:
                answer = _original(*args, **values)
                if left[0] == 0:
                    raise SystemExit
                left[0] -= 1
                return answer

            patch.setattr(MlflowClient, name, once)
        yield


def test_what_was_ended_in_an_outage_is_sent_as_soon_as_the_store_is_back(
    output: Path, make_record: MakeRecord, outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    first, second, third = (make_record(seed=seed) for seed in range(3))
    with open_tracker(output) as tracker:
        with outage:
            for record in (first, second):
                train(tracker, record)
                tracker.end_cell(record)
        assert outage.calls == 1
        clock[0] += 59
        tracker.start_cell(third.cell)
        assert list(everything(output)) == ["table2"]
        clock[0] += 2
        for metrics in third.result["history"]:
            clock[0] += 6
            tracker.epoch(third.cell.id, metrics)
        found = everything(output)
        assert found[first.cell.id][0] == found[second.cell.id][0] == "FINISHED"
        assert found[third.cell.id][0] == "RUNNING"
        assert not pending(output).exists()
        # A second outage starts a journal of its own.
        with outage:
            tracker.end_cell(third)
        lines = [json.loads(line) for line in pending(output).read_text().split("\n") if line]
        assert [set(line) & {"opening", "epochs", "end"} for line in lines] == [
            {"opening"}, {"end"},
        ]  # fmt: skip
    assert not pending(output).exists()
    assert everything(output)[third.cell.id][0] == "FINISHED"


def test_a_run_that_was_sent_and_then_missed_something_again(
    output: Path, make_record: MakeRecord, outage: Outage
) -> None:
    record = make_record(epochs=4)
    dead = open_tracker(output)
    train(dead, record, slice(0, 2))
    dead._sync(dead._runs[record.cell.id])
    with outage:
        dead.end_cell(record)
    assert complete_tracking.main([str(output)]) == 0
    status, metrics, *_ = everything(output)[record.cell.id]
    assert status == "FINISHED"
    assert [step for key, step, *_ in metrics if key == "train_loss"] == [1, 2, 3, 4]


def test_a_cell_trained_anew_in_an_outage_replaces_its_run(
    output: Path, make_record: MakeRecord, outage: Outage
) -> None:
    with open_tracker(output) as tracker:
        tracker.end_cell(make_record(test_error=5.0))
    again = make_record(test_error=6.0)
    dead = open_tracker(output)
    with outage:
        train(dead, again)
        dead.end_cell(again)
    kept = pending(output).read_text()
    for _ in range(2):
        pending(output).write_text(kept)  # as if the kill came before it was removed
        assert complete_tracking.main([str(output)]) == 0
        _, metrics, *_ = everything(output)[again.cell.id]
        assert [value for key, _, value, _ in metrics if key == "test_error"] == [6.0]
    assert rows(output, "SELECT count(*) FROM runs WHERE name LIKE 'beta%'") == [(2,)]


def test_a_record_that_the_store_refuses_holds_up_no_other(
    output: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = MlflowClient.create_run
    bad, *good = (make_record(seed=seed) for seed in range(3))

    def picky(self: MlflowClient, *args: Any, **values: Any) -> Any:
        if values["run_name"] == bad.cell.id:
            raise MlflowException("not this one", INVALID_PARAMETER_VALUE)
        return create(self, *args, **values)

    tracker = open_tracker(output)
    monkeypatch.setattr(MlflowClient, "create_run", picky)
    for record in (bad, *good):
        tracker.end_cell(record)
    with pytest.raises(TrackingError, match=r"not this one.*runs: 1, files: 0"):
        tracker.close("FINISHED")
    found = everything(output)
    assert {found[record.cell.id][0] for record in good} == {"FINISHED"}
    assert found["table2"][0] == "FINISHED"


def test_half_a_line_spoils_no_other(
    output: Path,
    make_record: MakeRecord,
    outage: Outage,
    caplog: pytest.LogCaptureFixture,
) -> None:
    record = make_record()
    tracker = open_tracker(output)
    with outage:
        tracker.start_cell(record.cell)
        with open(pending(output), "a") as file:
            file.write('\n{"study_id": "12')  # the disk was full
        tracker.end_cell(record)
    with caplog.at_level(logging.WARNING):
        assert complete_tracking.main([str(output)]) == 0
    assert "line 3 of" in caplog.text
    assert everything(output)[record.cell.id][0] == "FINISHED"


def test_no_file_from_outside_the_folder_is_sent_away(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_tracker(output):
        pass
    secret = output.parent / "secret.txt"
    secret.write_text("mine")
    place = {"study_id": "1234", "experiment": "table2"}
    names = [str(secret), "../secret.txt"]
    lines = [json.dumps({**place, "file": name}) for name in names]
    lines += [
        json.dumps({**place, "run": f"x{n}", "opening": opening})
        for n, opening in enumerate(({}, 1, {"name": "x"}))
    ]
    lines += ["[1]", '"text"', json.dumps({**place, "odd": 1}), json.dumps({"run": "x"})]
    pending(output).write_text("\n".join(lines))
    assert complete_tracking.main([str(output)]) == 0
    assert "runs 0, files 0" in capsys.readouterr().out
    assert not list((output / "mlartifacts").rglob("secret.txt"))


def test_files_that_are_refused_stay_and_are_named(
    output: Path, outage: Outage, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    tracker = open_tracker(output)
    with outage:
        study(tracker, [], output)
        with pytest.raises(TrackingError):
            tracker.close("FINISHED")

    def refuse(*_: Any) -> None:
        raise ModuleNotFoundError("No module named 'boto3'")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", refuse)
        assert complete_tracking.main([str(output)]) == 1
        assert "table2.csv: No module named 'boto3'" in capsys.readouterr().err
        with open_tracker(output):  # nor do they keep a study from running
            pass
    assert pending(output).exists()
    assert complete_tracking.main([str(output)]) == 0
    assert list((output / "mlartifacts").rglob("table2.csv"))


def test_each_store_has_its_own_and_a_password_makes_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uris = ["http://h:5000", "http://me:pw@h:5000", "http://h:5001"]
    names = [Journal(tmp_path, uri).path.name for uri in uris]
    assert names[0] == names[1]
    assert names[0] != names[2]
    assert Journal(tmp_path, default_tracking_uri(tmp_path)).path == pending(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uris[2])
    assert Journal(tmp_path, default_tracking_uri(tmp_path)).path.name == names[2]


def test_a_disk_that_is_full_for_the_journal_ends_nothing(
    output: Path,
    make_record: MakeRecord,
    outage: Outage,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pending(output).mkdir()  # cannot be opened for writing
    journal = Journal(output, default_tracking_uri(output))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            journal.append("1234", "table2", [{"run": "x"}])
    assert caplog.text.count("cannot keep MLflow records in") == 1


@pytest.mark.parametrize("arguments", [["nowhere"], [".", "--tracking-uri", "ftp://me:pw@h"]])
def test_what_cannot_be_completed_is_one_error(
    arguments: list[str], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = arguments[-1]
    Journal(tmp_path, uri).append("1234", "table2", [{"run": "x"}])
    assert complete_tracking.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert "pw" not in error


# How long those who wait for the writer are held up


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(writing.time, "monotonic", lambda: now[0])
    return now


def test_a_store_that_lets_one_wait_takes_a_tenth_of_the_time_at_most(clock: list[float]) -> None:
    writing = Writing("http://h:5000")
    waited = 0.0

    def hang() -> None:
        nonlocal waited
        clock[0] += 20.0
        waited += 20.0
        raise OSError("timed out")

    while clock[0] < 36_000:
        writing.records(hang)
        clock[0] += 1.0
    assert 20.0 < waited < 3600.0


def test_a_store_that_refuses_at_once_is_asked_every_minute(clock: list[float]) -> None:
    writing = Writing("http://h:5000")
    calls = []

    def refuse() -> None:
        calls.append(clock[0])
        raise OSError("connection refused")

    while clock[0] < 200:
        writing.records(refuse)
        clock[0] += 1.0
    assert calls == [0, 60, 120, 180]


def test_the_environment_says_how_long_a_request_may_take(
    output: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str | None, ...]] = []
    create = MlflowClient.create_run

    def look(*args: Any, **values: Any) -> Any:
        names = ("REQUEST_TIMEOUT", "REQUEST_MAX_RETRIES", "RESPECT_RETRY_AFTER_HEADER")
        seen.append(tuple(os.environ.get(f"MLFLOW_HTTP_{name}") for name in names))
        return create(*args, **values)

    monkeypatch.setattr(MlflowClient, "create_run", look)
    with open_tracker(output) as tracker:
        tracker.start_cell(make_record().cell)
    assert seen == [("30", "3", "false"), ("10", "1", "false")]

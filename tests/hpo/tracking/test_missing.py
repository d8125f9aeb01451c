"""What a store missed is sent once, from the stored records, by whoever comes next."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from hpo import complete_tracking
from hpo.cells.record import CellRecord
from hpo.cells.store import CellStore
from hpo.cells.summary import SummaryRow
from hpo.storage import storage_of
from hpo.tracking.missing import Missing
from hpo.tracking.tracker import StudyTracker, TrackingError, default_tracking_uri
from mlflow import MlflowClient

Study = Any  # of conftest.py
Outage = Any
Train = Callable[..., None]
MakeRecord = Callable[..., CellRecord]

FINDINGS = {"pair_epochs": [1, 2], "pair_lam": [[[0.25, None], [0.75, 0.5]], [[0.0, 1.0]] * 2]}
SUMMARY = SummaryRow("none", "digits", "", 3, 4.0, 3.5, float("nan"), 10.0, 1e5)


@pytest.fixture
def records(make_record: MakeRecord) -> list[CellRecord]:
    return [
        make_record(seed=0, train_loss=float("inf"), findings=FINDINGS),
        make_record(seed=1, status="pruned", epochs=3),
        make_record(seed=2, status="crashed", error="worker died"),
    ]


def open_study(study: Study) -> StudyTracker:
    tracker: StudyTracker = study.open(storage=storage_of(study.output), params={"seeds": 3})
    return tracker


@pytest.fixture
def run_all(records: list[CellRecord], train: Train) -> Callable[..., None]:
    """run_all(tracker, study): train, store and report everything."""

    def run_all(tracker: StudyTracker, study: Study) -> None:
        for record in records:
            train(tracker, record)
            if record.status != "crashed":
                CellStore(study.output).save(record)
            tracker.end_cell(record)
        tracker.summarise([SUMMARY])
        (study.output / "table2.csv").write_text("a,b\n")
        tracker.log_figure_files([study.output / "table2.csv"])
        tracker.describe("A table.")

    return run_all


def ledger(study: Study) -> Path:
    return Path(study.output / "mlflow-pending-local-table2.json")


def complete(study: Study, *arguments: str) -> int:
    return complete_tracking.main([str(study.output), *arguments])


@pytest.fixture
def calm(make_study: Callable[[str], Study], run_all: Any) -> dict[str, Any]:
    """Returns the store of a study that nothing disturbed."""
    study = make_study("calm")
    with open_study(study) as tracker:
        run_all(tracker, study)
    assert not ledger(study).exists()
    content: dict[str, Any] = study.content()
    return content


@pytest.fixture
def message(study: Study, run_all: Any, outage: Outage) -> str:
    """Returns what a study says at its end whose store went away when it had begun, and stayed
    away."""
    tracker = open_study(study)
    with outage():
        run_all(tracker, study)
        with pytest.raises(TrackingError, match="no route to host") as caught:
            tracker.close("FINISHED")
    assert study.statuses() == {"table2": "RUNNING"}
    return str(caught.value)


def test_what_a_store_missed_is_sent_by_a_command(
    message: str, study: Study, calm: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "what is missing (runs: 5, files: 1) is sent, once the store works, by " in message
    assert f"`python -m hpo.complete_tracking {study.output}`, and by the same study" in message
    assert complete(study) == 0
    assert "runs 5, files 1" in capsys.readouterr().out
    assert study.content() == calm
    assert not ledger(study).exists()
    assert study.files("table2.csv") == ["table2.csv"]
    assert len(study.files("*.png")) == 2
    assert complete(study) == 0
    assert "nothing waits" in capsys.readouterr().out
    other = study.output / "mlflow-pending-0123abcd-table2.json"
    other.write_text("{}")
    assert complete(study) == 0
    assert f"; {other.name} there wait for another store" in capsys.readouterr().out
    assert study.content() == calm


@pytest.mark.usefixtures("message")
def test_the_same_study_sends_it_when_it_goes_on(
    study: Study, calm: dict[str, Any], run_all: Any
) -> None:
    with open_study(study) as tracker:
        run_all(tracker, study)
    assert study.content() == calm
    assert len(study.files("*.png")) == 2
    assert not ledger(study).exists()


def test_what_a_killed_driver_could_not_send_is_sent(
    study: Study, calm: dict[str, Any], run_all: Any, outage: Outage
) -> None:
    tracker = open_study(study)
    with outage():
        run_all(tracker, study)
    del tracker  # its driver was killed
    assert complete(study) == 0
    expected = {name: status for name, (status, *_) in calm.items()} | {"table2": "KILLED"}
    assert study.statuses() == expected
    assert not ledger(study).exists()


@pytest.mark.usefixtures("message")
def test_a_kill_while_sending_leaves_everything_once(study: Study, calm: dict[str, Any]) -> None:
    kills = 0
    for answered in (0, 0, 1, 3, 5, 7, 10, 100):
        with killed_after(answered):
            try:
                assert complete(study) == 0
                break
            except SystemExit:
                kills += 1
                assert ledger(study).exists()
    assert kills >= 4
    assert study.content() == calm
    assert len(study.files("*.png")) == 2


@contextmanager
def killed_after(answered: int) -> Iterator[None]:
    """So many writing calls are answered; the next is done, and nobody hears of it."""
    remaining = [answered]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("create_run", "log_batch", "set_terminated", "log_image"):
            original = getattr(MlflowClient, name)

            def once(*args: Any, _original: Any = original, **values: Any) -> Any:
                answer = _original(*args, **values)
                if remaining[0] == 0:
                    raise SystemExit
                remaining[0] -= 1
                return answer

            patch.setattr(MlflowClient, name, once)
        yield


def test_what_was_ended_in_an_outage_is_sent_as_soon_as_the_store_is_back(
    study: Study,
    make_record: MakeRecord,
    train: Train,
    outage: Outage,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    first, second, third = (make_record(seed=seed) for seed in range(3))
    with study.open() as tracker:
        with outage():
            for record in (first, second):
                train(tracker, record)
                tracker.end_cell(record)
        assert outage.calls == 1  # asked again a minute later, not at every epoch
        assert caplog.text.count("does not take records (no route to host)") == 1
        assert set(json.loads(ledger(study).read_text())["runs"]) == {first.cell.id, second.cell.id}
        clock[0] += 59
        tracker.start_cell(third.cell)
        assert list(study.statuses()) == ["table2"]
        clock[0] += 2
        for metrics in third.result.history:
            clock[0] += 6
            tracker.epoch(third.cell.id, metrics)
        assert set(study.statuses().values()) == {"FINISHED", "RUNNING"}
        assert study.statuses()[third.cell.id] == "RUNNING"
        assert not ledger(study).exists()
        with outage():  # a second one
            tracker.end_cell(third)
        assert set(json.loads(ledger(study).read_text())["runs"]) == {third.cell.id}
    assert not ledger(study).exists()
    assert study.statuses()[third.cell.id] == "FINISHED"


def test_a_run_that_the_store_has_half_of_is_completed(
    study: Study,
    make_record: MakeRecord,
    train: Train,
    outage: Outage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = make_record(epochs=4)
    dead = study.open()
    with monkeypatch.context() as patch:
        patch.setattr("hpo.tracking.tracker.FLUSH_SECONDS", 0.0)
        train(dead, record, slice(0, 2))
    assert len(study.metric(record.cell.id, "train_loss")) == 2
    with outage():
        dead.end_cell(record)
    assert complete(study) == 0
    assert study.statuses()[record.cell.id] == "FINISHED"
    assert [step for step, _ in study.metric(record.cell.id, "train_loss")] == [1, 2, 3, 4]


def test_a_cell_trained_anew_in_an_outage_replaces_its_run(
    study: Study, make_record: MakeRecord, train: Train, outage: Outage
) -> None:
    with study.open() as tracker:
        tracker.end_cell(make_record(test_error=5.0))
    again = make_record(test_error=6.0)
    dead = study.open()
    with outage():
        train(dead, again)
        dead.end_cell(again)
    content = ledger(study).read_text()
    for _ in range(2):
        ledger(study).write_text(content)  # as if the kill came before it was removed
        assert complete(study) == 0
        assert [value for _, value in study.metric(again.cell.id, "test_error")] == [6.0]
    assert study.stages(again.cell.id) == [("active", "FINISHED"), ("deleted", "FINISHED")]


def test_a_record_that_the_store_refuses_holds_up_no_other(
    study: Study, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = MlflowClient.create_run
    bad, *good = (make_record(seed=seed) for seed in range(3))

    def picky(self: MlflowClient, *args: Any, **values: Any) -> Any:
        if values["run_name"] == bad.cell.id:
            raise MlflowException("not this one", INVALID_PARAMETER_VALUE)
        return create(self, *args, **values)

    tracker = study.open()
    monkeypatch.setattr(MlflowClient, "create_run", picky)
    for record in (bad, *good):
        tracker.end_cell(record)
    with pytest.raises(TrackingError, match=r"not this one.*runs: 1, files: 0"):
        tracker.close("FINISHED")
    names = ["table2", *(record.cell.id for record in good)]
    assert study.statuses() == dict.fromkeys(names, "FINISHED")


@pytest.mark.usefixtures("message")
def test_a_ledger_that_was_cut_short_is_named_and_the_study_itself_makes_up_for_it(
    study: Study, calm: dict[str, Any], run_all: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ledger(study).write_bytes(ledger(study).read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        assert complete(study) == 0
    assert f"{ledger(study)} is damaged" in caplog.text
    with open_study(study) as tracker:
        run_all(tracker, study)
    assert study.content() == calm


@pytest.mark.parametrize(
    ("content", "trouble"),
    [
        ({"files": ["../secret.txt"]}, "../secret.txt: no file of"),
        ({"files": ["{secret}"]}, "secret.txt: no file of"),
        ({"files": ["gone.csv"]}, "gone.csv: no file of"),
        ({"runs": {"../elsewhere": None}}, "../elsewhere: no record in"),
        ({"runs": {"none-digits-s0-12345678": None}}, "give --storage where it is elsewhere"),
        ({"runs": {"x": {"config": 1}, "summary x": {}, "y": [1]}}, "y: "),
        ({"runs": [1]}, None),
        ({"invented": 1}, None),
        ([1], None),
    ],
)
def test_what_a_ledger_from_elsewhere_names_is_not_sent_away(
    content: Any, trouble: str | None, study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = study.output.parent / "secret.txt"
    secret.write_text("mine")
    whole = {"study_id": "1234", "experiment": "table2", "params": {}, "runs": {}, "files": []}
    text = json.dumps({**whole, **content} if isinstance(content, dict) else content)
    ledger(study).write_text(text.replace("{secret}", str(secret)))
    assert complete(study) == (0 if trouble is None else 1)
    error = capsys.readouterr().err
    assert trouble is None or trouble in error
    assert study.files("*") == []
    if trouble is not None:
        assert study.statuses() == {"table2": "KILLED"}


def test_records_that_lie_elsewhere_are_found_there(
    study: Study, make_record: MakeRecord, outage: Outage, tmp_path: Path
) -> None:
    record = make_record()
    elsewhere = storage_of(tmp_path / "shared")
    CellStore(elsewhere).save(record)
    tracker = study.open(storage=elsewhere)
    with outage():
        tracker.end_cell(record)
        with pytest.raises(TrackingError, match=f"{study.output} --storage {elsewhere.uri}`"):
            tracker.close("FINISHED")
    assert complete(study) == 1
    assert study.statuses() == {"table2": "FINISHED"}
    assert complete(study, "--storage", elsewhere.uri) == 0
    assert study.statuses() == {"table2": "FINISHED", record.cell.id: "FINISHED"}


def test_files_that_are_refused_stay_and_are_named(
    study: Study,
    make_record: MakeRecord,
    outage: Outage,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (study.output / "table2.csv").write_text("a,b\n")
    record = make_record()
    with outage("log_artifact", error="No module named 'boto3'"):
        tracker = study.open()
        tracker.log_figure_files([study.output / "table2.csv"])
        tracker.end_cell(record)
        with pytest.raises(TrackingError, match=r"table2.csv: No module.*runs: 0, files: 1"):
            tracker.close("FINISHED")
        assert caplog.text.count("does not take files (table2.csv: No module") == 1
        assert complete(study) == 1
        assert "table2.csv: No module named 'boto3'" in capsys.readouterr().err
        with study.open(experiment="table1"):  # nor do they keep a study from running
            pass
    assert complete(study) == 0
    assert study.files("table2.csv") == ["table2.csv"]
    names = ["table1", "table2", record.cell.id]
    assert study.statuses() == dict.fromkeys(names, "FINISHED")
    assert len(study.metric(record.cell.id, "train_loss")) == 2


def test_each_store_has_its_own(
    study: Study, make_record: MakeRecord, outage: Outage, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{study.output}/other.db"
    tracker = study.open(uri)
    with outage():
        tracker.end_cell(make_record())
        with pytest.raises(TrackingError, match=f"--tracking-uri {uri}`"):
            tracker.close("FINISHED")
    [path] = study.output.glob("mlflow-pending-*.json")
    assert uri not in path.read_text()
    assert complete(study) == 0
    assert "nothing waits" in capsys.readouterr().out
    assert complete(study, "--tracking-uri", uri) == 0
    assert not path.exists()


def test_experiments_of_one_folder_have_their_own(
    study: Study, make_record: MakeRecord, outage: Outage
) -> None:
    names = ["表1", "図1", "my study", "my/study", "my_study"]
    for name in names:
        tracker = study.open(experiment=name, study_id=name)
        with outage():
            tracker.end_cell(make_record())
            with pytest.raises(TrackingError):
                tracker.close("FINISHED")
    with study.open(experiment="表1", study_id="表1"):
        pass  # which leaves the others alone
    uri = default_tracking_uri(study.output)
    kept = {found.experiment for found in Missing.all_in(study.output, uri)}
    assert kept >= {*names} - {"表1"}
    assert (study.output / "mlflow-pending-local-my_study.json").exists()
    assert complete(study) == 0
    assert not list(study.output.glob("mlflow-pending-*"))


@pytest.mark.usefixtures("message")
def test_a_journal_of_an_earlier_version_is_named(
    study: Study, calm: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (study.output / "mlflow-pending.jsonl").write_text("{}")
    assert complete(study) == 1
    assert "run its study again, without --fresh" in capsys.readouterr().err
    assert study.content() == calm


def test_a_disk_that_is_full_for_the_ledger_ends_nothing(
    study: Study, make_record: MakeRecord, outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = study.open()
    ledger(study).mkdir()  # cannot be replaced by a file
    with outage(), caplog.at_level(logging.WARNING):
        for seed in range(2):
            tracker.end_cell(make_record(seed=seed))
        with pytest.raises(TrackingError, match="by the same study run again, without --fresh"):
            tracker.close("FINISHED")
    assert caplog.text.count("cannot keep what MLflow misses in") == 1


@pytest.mark.parametrize("arguments", [["nowhere"], [".", "--tracking-uri", "ftp://me:pw@h"]])
def test_what_cannot_be_completed_is_one_error(
    arguments: list[str], study: Study, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study.output)
    # Its ledger is the same whoever asks.
    store = hashlib.sha256(b"ftp://h").hexdigest()[:8]
    content = {"study_id": "1234", "experiment": "table2", "files": ["x"]}
    (study.output / f"mlflow-pending-{store}-table2.json").write_text(json.dumps(content))
    assert complete_tracking.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert "pw" not in error


# How long those who wait for the writer are held up


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(("seconds", "calls"), [(20.0, range(14, 18)), (0.0, range(59, 62))])
def test_a_store_that_fails_takes_a_tenth_of_the_time_and_is_asked_every_minute(
    seconds: float, calls: range, study: Study, make_record: MakeRecord, clock: list[float]
) -> None:
    """One lets a study wait for 20 s each time, the other refuses at once; for an hour."""
    tracker = study.open()
    asked = []

    def fail(*_: Any, **__: Any) -> None:
        asked.append(clock[0])
        clock[0] += seconds
        raise OSError("timed out")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", fail)
        tracker.start_cell(make_record().cell)
        epoch = 0
        while clock[0] < 3600:
            clock[0] += 1.0
            epoch += 1
            tracker.epoch(make_record().cell.id, {"epoch": float(epoch)})
    assert len(asked) in calls


def test_the_environment_says_how_long_a_request_may_take(
    study: Study, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patiently before the first training, less while it runs, briefly until a lost one is back."""
    monkeypatch.setattr("hpo.tracking.outbox.RETRY_SECONDS", 0.0)
    monkeypatch.setattr("hpo.tracking.outbox.REST", 0.0)
    seen: list[tuple[str | None, ...]] = []
    # The second cell comes after another try of the first, and the third with a third.
    answers = iter([True, False, False, True, True, True, True])
    create = MlflowClient.create_run

    def look(*args: Any, **values: Any) -> Any:
        names = ("REQUEST_TIMEOUT", "REQUEST_MAX_RETRIES", "RESPECT_RETRY_AFTER_HEADER")
        seen.append(tuple(os.environ.get(f"MLFLOW_HTTP_{name}") for name in names))
        if not next(answers):
            raise OSError("no route to host")
        return create(*args, **values)

    monkeypatch.setattr(MlflowClient, "create_run", look)
    with study.open() as tracker:
        for seed in range(4):
            tracker.start_cell(make_record(seed=seed).cell)
    brief, running = ("4", "1", "false"), ("10", "1", "false")
    assert seen == [("30", "3", "false"), running, brief, brief, *[running] * 3]
    assert len(study.statuses()) == 5

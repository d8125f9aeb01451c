from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpo.cells.record import CellRecord
from hpo.cells.summary import SummaryRow
from hpo.tracking.tracker import StudyTracker

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


def tags(output: Path, run: str) -> dict[str, str]:
    return dict(
        rows(
            output,
            "SELECT t.key, t.value FROM tags t JOIN runs r USING (run_uuid) "
            f"WHERE r.name = '{run}' AND r.lifecycle_stage = 'active'",
        )
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


def test_a_study_leaves_parent_and_children(output: Path, make_record: MakeRecord) -> None:
    record = make_record("beta-1", seed=3, test_error=4.5, epochs=3)
    name = record.cell.id
    with open_tracker(output, preset="smoke", nested={"lr": 0.1}) as tracker:
        train(tracker, record)
        tracker.end_cell(record)
    assert statuses(output) == {"table2": "FINISHED", name: "FINISHED"}
    [(parent,)] = rows(output, "SELECT run_uuid FROM runs WHERE name = 'table2'")
    expected = {
        "mlflow.parentRunId": parent,
        "study_id": "table2-1234",
        "cell_id": name,
        "method": "beta-1",
        "dataset": "digits",
        "seed": "3",
        "purpose": "final",
        "status": "finished",
    }
    assert expected.items() <= tags(output, name).items()
    assert metric(output, name, "train_loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert metric(output, name, "test_error") == [(3, 4.5)]
    params = dict(
        rows(
            output,
            f"SELECT key, value FROM params JOIN runs USING (run_uuid) WHERE name = '{name}'",
        )
    )
    assert params["policy.kind"] == "beta"
    assert params["policy.alpha"] == "1.0"
    assert "image_size" not in params  # None says nothing
    parent_params = rows(output, f"SELECT key, value FROM params WHERE run_uuid = '{parent}'")
    assert dict(parent_params) == {"preset": "smoke", "nested.lr": "0.1"}


def test_values_that_the_last_epoch_has_are_not_logged_again(
    output: Path, make_record: MakeRecord
) -> None:
    record = make_record(epochs=2, train_seconds=10.0, val_error=24.0)
    with open_tracker(output) as tracker:
        train(tracker, record)
        tracker.end_cell(record)
    assert metric(output, record.cell.id, "train_seconds") == [(1, 5.0), (2, 10.0)]
    # The final evaluation differs from the last epoch's: it comes after it and is the latest.
    assert metric(output, record.cell.id, "val_error") == [(1, 50.0), (2, 25.0), (2, 24.0)]


def test_a_restart_continues_the_same_runs(output: Path, make_record: MakeRecord) -> None:
    done, cut = make_record(seed=0), make_record(seed=1, epochs=4)
    with interrupted(open_tracker(output), KeyboardInterrupt()) as tracker:
        train(tracker, done)
        tracker.end_cell(done)
        train(tracker, cut, slice(0, 2))
    first = rows(output, "SELECT run_uuid FROM runs ORDER BY run_uuid")
    assert statuses(output)[cut.cell.id] == "KILLED"

    with open_tracker(output) as tracker:
        assert statuses(output)["table2"] == "RUNNING"
        tracker.end_cell(done)
        # The worker goes on from its checkpoint of epoch 1, so epoch 2 comes a second time.
        train(tracker, cut, slice(1, None))
        assert statuses(output)[cut.cell.id] == "RUNNING"
        tracker.end_cell(cut)
    assert rows(output, "SELECT run_uuid FROM runs ORDER BY run_uuid") == first
    assert set(statuses(output).values()) == {"FINISHED"}
    assert [step for step, _ in metric(output, cut.cell.id, "train_loss")] == [1, 2, 3, 4]
    assert metric(output, done.cell.id, "test_error") == [(2, 5.0)]


def test_a_known_cell_is_not_written_again(output: Path, make_record: MakeRecord) -> None:
    record = make_record()
    with open_tracker(output) as tracker:
        tracker.end_cell(record)
    before = rows(output, f"SELECT end_time FROM runs WHERE name = '{record.cell.id}'")
    time.sleep(0.01)
    with open_tracker(output) as tracker:
        tracker.end_cell(record)
        tracker.end_cell(record)
    after = rows(output, f"SELECT end_time FROM runs WHERE name = '{record.cell.id}'")
    assert after == before


def test_a_changed_study_parameter_becomes_a_tag(output: Path) -> None:
    with open_tracker(output, workers=2, epochs=3):
        pass
    with open_tracker(output, workers=8, epochs=3):
        pass
    assert rows(output, "SELECT value FROM params WHERE key = 'workers'") == [("2",)]
    assert tags(output, "table2")["latest.workers"] == "8"
    assert "latest.epochs" not in tags(output, "table2")


@pytest.mark.parametrize(
    ("status", "expected"), [("finished", "FINISHED"), ("diverged", "FAILED"), ("pruned", "KILLED")]
)
def test_a_cells_outcome_is_its_runs_state(
    output: Path, make_record: MakeRecord, status: str, expected: str
) -> None:
    error = None if status == "finished" else "loss became nan at epoch 2"
    record = make_record(status=status, error=error, train_loss=float("inf"))
    with open_tracker(output) as tracker:
        tracker.end_cell(record)
    name = record.cell.id
    assert statuses(output)[name] == expected
    assert tags(output, name)["status"] == status
    assert tags(output, name).get("error") == error
    # Infinity is kept as NaN (value 0 with a flag), not as the largest float.
    flags = rows(output, "SELECT is_nan FROM latest_metrics WHERE key = 'train_loss'")
    assert [bool(flag) for (flag,) in flags] == [True]


def test_a_cell_trained_anew_replaces_its_run(output: Path, make_record: MakeRecord) -> None:
    with open_tracker(output) as tracker:
        tracker.end_cell(make_record(test_error=5.0))
    again = make_record(test_error=6.0)
    with open_tracker(output) as tracker:
        train(tracker, again)
        tracker.end_cell(again)
    assert metric(output, again.cell.id, "test_error") == [(2, 6.0)]
    assert len(metric(output, again.cell.id, "train_loss")) == 2
    assert set(statuses(output).values()) == {"FINISHED"}


def test_a_crashed_cells_run_goes_on_when_it_is_tried_again(
    output: Path, make_record: MakeRecord
) -> None:
    record = make_record(epochs=3)
    crashed = replace(record, status="crashed", error="worker died", result={})
    with open_tracker(output) as tracker:
        train(tracker, record, slice(0, 2))
        tracker.end_cell(crashed)
    assert statuses(output)[record.cell.id] == "FAILED"
    assert tags(output, record.cell.id)["error"] == "worker died"
    with open_tracker(output) as tracker:
        train(tracker, record)
        tracker.end_cell(record)
    assert statuses(output)[record.cell.id] == "FINISHED"
    assert tags(output, record.cell.id)["error"] == ""
    assert [step for step, _ in metric(output, record.cell.id, "train_loss")] == [1, 2, 3]
    assert rows(output, "SELECT count(*) FROM runs") == [(2,)]


def test_finished_cells_reach_a_second_store(tmp_path: Path, make_record: MakeRecord) -> None:
    record = make_record()
    with open_tracker(tmp_path / "one") as tracker:
        train(tracker, record)
        tracker.end_cell(record)
    second = f"sqlite:///{tmp_path / 'two' / 'mlflow.db'}"
    with open_tracker(tmp_path / "one", second) as tracker:
        tracker.end_cell(record)
    assert len(metric(tmp_path / "two", record.cell.id, "train_loss")) == 2
    assert statuses(tmp_path / "two") == statuses(tmp_path / "one")


@pytest.mark.parametrize(
    ("epochs", "whole"),
    [
        (450, [996, 996]),  # 6 metrics each: 2700, the rest goes with the end
        (497, [996, 996, 990]),  # with the rest, the end would be too large
    ],
)
def test_epochs_are_buffered_and_split_at_mlflows_limit(
    epochs: int,
    whole: list[int],
    output: Path,
    make_record: MakeRecord,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = make_record(epochs=epochs)
    tracker = open_tracker(output)
    sizes: list[tuple[int, int]] = []
    send = tracker._client.log_batch

    def count(run_id: str, **values: Any) -> None:
        found = [len(list(values.get(kind, ()))) for kind in ("metrics", "params", "tags")]
        sizes.append((found[0], sum(found)))
        send(run_id, **values)

    with tracker:
        tracker.start_cell(record.cell)
        monkeypatch.setattr(tracker._client, "log_batch", count)
        monkeypatch.setattr("hpo.tracking.tracker._FLUSH_SECONDS", 1e9)
        for metrics in record.result["history"]:
            tracker.epoch(record.cell.id, metrics)
        assert sizes == []
        tracker.end_cell(record)
    assert [metrics for metrics, _ in sizes[:-1]] == whole
    metrics, values = sizes[-1]
    assert 6 * epochs < sum(whole) + metrics  # the end is more than the epochs
    assert max(values for _, values in sizes) <= 1000
    assert values > metrics  # parameters and tags came with it
    assert len(metric(output, record.cell.id, "lam_mean")) == epochs


def test_epochs_are_sent_while_training(
    output: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record()
    monkeypatch.setattr("hpo.tracking.tracker._FLUSH_SECONDS", 0.0)
    with open_tracker(output) as tracker:
        train(tracker, record, slice(0, 1))
        assert metric(output, record.cell.id, "train_loss") == [(1, 1.0)]


def test_summaries_are_updated_not_duplicated(output: Path) -> None:
    first = [
        SummaryRow("none", "digits", "", 3, 4.0, 3.5, 4.5, 10.0, 1e5),
        SummaryRow("beta-1", "digits", "alpha=1", 1, 3.0, float("nan"), float("nan"), 11.0, 1e5),
    ]
    with open_tracker(output) as tracker:
        tracker.summarise(first)
        tracker.summarise(first)
    further = {"minus_placebo": -0.5, "p_holm_placebo": float("nan")}
    better = SummaryRow("beta-1", "digits", "alpha=1.5", 2, 2.0, 1.5, 2.5, 11.0, 1e5, further)
    with open_tracker(output) as tracker:
        tracker.summarise([first[0], better])
    names = ["summary none digits", "summary beta-1 digits"]
    assert statuses(output) == dict.fromkeys(["table2", *names], "FINISHED")
    assert metric(output, names[0], "mean_error") == [(0, 4.0)]
    assert metric(output, names[1], "mean_error") == [(0, 3.0), (0, 2.0)]
    assert metric(output, names[1], "ci_low") == [(0, 1.5)]
    assert metric(output, names[1], "train_seconds") == [(0, 11.0)]
    assert metric(output, names[1], "minus_placebo") == [(0, -0.5)]
    assert metric(output, names[1], "p_holm_placebo") == []
    assert tags(output, names[1])["setting"] == "alpha=1.5"
    assert tags(output, names[1])["kind"] == "summary"


def test_artifacts_lie_under_the_output_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    output = tmp_path / "with space"
    with open_tracker(output) as tracker:
        (output / "table2.csv").write_text("a,b\n")
        tracker.log_figure_files([output / "table2.csv"])
    [copy] = (output / "mlartifacts").rglob("table2.csv")
    assert copy.read_text() == "a,b\n"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_nothing_is_printed_or_logged(
    tmp_path: Path, make_record: MakeRecord, capfd: pytest.CaptureFixture[str]
) -> None:
    with open_tracker(tmp_path) as tracker:
        tracker.end_cell(make_record())
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


HISTOGRAM = [4, *[0] * 18, 12]
FINDINGS = {
    "pair_epochs": [1, 2],
    "pair_lam": [[[0.25, None], [0.75, 0.5]], [[0.0, 1.0], [1.0, 0.0]]],
    "plane": [],
    "plane_labels": [],
    "intrusion": {"mean": 3.5, "minimum": 0.25},
}


def test_the_histogram_of_lam_is_a_curve_over_lam(output: Path, make_record: MakeRecord) -> None:
    """16 λ, a quarter in the lowest of 20 bins: 20 · 4 / 16 = 5 at 2.5 percent, rounded down."""
    record = make_record(lam_histogram=HISTOGRAM, lam_histogram_first=[3] * 20)
    with open_tracker(output) as tracker:
        train(tracker, record)
        tracker.end_cell(record)
        tracker.end_cell(record)
    name = record.cell.id
    density = metric(output, name, "lam_density")
    assert [step for step, _ in density] == list(range(2, 100, 5))
    assert [value for _, value in density] == [5.0, *[0.0] * 18, 15.0]
    assert [value for _, value in metric(output, name, "lam_density_first")] == [1.0] * 20


def test_what_an_analysis_found_is_there_once(output: Path, make_record: MakeRecord) -> None:
    record = make_record(findings=FINDINGS)
    for _ in range(2):  # and again, by a driver that finds it complete
        with open_tracker(output) as tracker:
            tracker.end_cell(record)
    name = record.cell.id
    assert metric(output, name, "intrusion_mean") == [(2, 3.5)]
    assert metric(output, name, "intrusion_minimum") == [(2, 0.25)]
    spread = dict(metric(output, name, "lam_pair_spread"))
    # Of 0.25, 0.75 and 0.5; of 0, 1, 1 and 0.
    assert spread == pytest.approx({1: (0.125 / 3) ** 0.5, 2: 0.5})
    images = sorted(path.name for path in (output / "mlartifacts").rglob("*.png"))
    assert [image.split("+timestamp")[0] for image in images] == [
        f"lam_by_class_pair+step+{epoch}" for epoch in (1, 2)
    ]


def test_maps_that_were_refused_are_sent_later(
    output: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record(findings=FINDINGS)
    with open_tracker(output) as tracker:
        with monkeypatch.context() as refusal:

            def refuse(*arguments: Any, **more: Any) -> None:
                raise OSError("no room")

            refusal.setattr(tracker._client, "log_image", refuse)
            tracker.end_cell(record)
        assert not list(output.rglob("*.png"))
    assert len(list((output / "mlartifacts").rglob("*.png"))) == 2
    assert statuses(output)[record.cell.id] == "FINISHED"

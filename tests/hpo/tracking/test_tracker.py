from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from hpo.cells.record import CellRecord
from hpo.cells.result import PartialResult
from hpo.cells.summary import SummaryRow
from hpo.tracking.tracker import default_tracking_uri
from mlflow import MlflowClient

Study = Any  # of conftest.py
Train = Callable[..., None]
MakeRecord = Callable[..., CellRecord]


def test_a_study_leaves_parent_and_children(
    study: Study, make_record: MakeRecord, train: Train
) -> None:
    record = make_record("beta-1", seed=3, test_error=4.5, epochs=3)
    name = record.cell.id
    params = {"preset": "smoke", "nested": {"lr": 0.1}}
    with study.open(params=params) as tracker:
        train(tracker, record)
        tracker.end_cell(record)
    assert study.statuses() == {"table2": "FINISHED", name: "FINISHED"}
    parent, cell = study.run("table2"), study.run(name).data
    expected = {
        "mlflow.parentRunId": parent.info.run_id,
        "study_id": "1234",
        "cell_id": name,
        "method": "beta-1",
        "dataset": "digits",
        "seed": "3",
        "purpose": "final",
        "status": "finished",
    }
    assert expected.items() <= cell.tags.items()
    assert study.metric(name, "train_loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert study.metric(name, "test_error") == [(3, 4.5)]
    assert cell.params["policy.kind"] == "beta"
    assert cell.params["policy.alpha"] == "1.0"
    assert "image_size" not in cell.params  # None says nothing
    assert parent.data.params == {"preset": "smoke", "nested.lr": "0.1"}


def test_values_that_the_last_epoch_has_are_not_logged_again(
    study: Study, make_record: MakeRecord, train: Train
) -> None:
    record = make_record(epochs=2, train_seconds=10.0, val_error=24.0)
    with study.open() as tracker:
        train(tracker, record)
        tracker.end_cell(record)
    assert study.metric(record.cell.id, "train_seconds") == [(1, 5.0), (2, 10.0)]
    # The final evaluation differs from the last epoch's: it comes after it and is the latest.
    assert study.metric(record.cell.id, "val_error") == [(1, 50.0), (2, 25.0), (2, 24.0)]


def test_a_restart_continues_the_same_runs(
    study: Study, make_record: MakeRecord, train: Train
) -> None:
    done, cut = make_record(seed=0), make_record(seed=1, epochs=4)
    with study.interrupted(KeyboardInterrupt()) as tracker:
        train(tracker, done)
        tracker.end_cell(done)
        train(tracker, cut, slice(0, 2))
    first = {run.info.run_id for run in study.runs()}
    assert study.statuses()[cut.cell.id] == "KILLED"

    with study.open() as tracker:
        assert study.statuses()["table2"] == "RUNNING"
        tracker.end_cell(done)
        # The worker goes on from its checkpoint of epoch 1, so epoch 2 comes a second time.
        train(tracker, cut, slice(1, None))
        assert study.statuses()[cut.cell.id] == "RUNNING"
        tracker.end_cell(cut)
    assert {run.info.run_id for run in study.runs()} == first
    assert set(study.statuses().values()) == {"FINISHED"}
    assert [step for step, _ in study.metric(cut.cell.id, "train_loss")] == [1, 2, 3, 4]
    assert study.metric(done.cell.id, "test_error") == [(2, 5.0)]


def test_a_known_cell_is_not_written_again(study: Study, make_record: MakeRecord) -> None:
    record = make_record()
    with study.open() as tracker:
        tracker.end_cell(record)
    before = study.run(record.cell.id).info.end_time
    time.sleep(0.01)
    with study.open() as tracker:
        tracker.end_cell(record)
        tracker.end_cell(record)
    assert study.run(record.cell.id).info.end_time == before


def test_a_changed_study_parameter_becomes_a_tag(study: Study) -> None:
    with study.open(params={"workers": 2, "epochs": 3}):
        pass
    with study.open(params={"workers": 8, "epochs": 3}):
        pass
    data = study.run("table2").data
    assert data.params["workers"] == "2"
    assert data.tags["latest.workers"] == "8"
    assert "latest.epochs" not in data.tags


@pytest.mark.parametrize(
    ("status", "expected"), [("finished", "FINISHED"), ("diverged", "FAILED"), ("pruned", "KILLED")]
)
def test_a_cells_outcome_is_its_runs_state(
    study: Study, make_record: MakeRecord, status: str, expected: str
) -> None:
    error = None if status == "finished" else "loss became nan at epoch 2"
    record = make_record(status=status, error=error, train_loss=float("inf"))
    with study.open() as tracker:
        tracker.end_cell(record)
    name = record.cell.id
    assert study.statuses()[name] == expected
    assert study.run(name).data.tags["status"] == status
    assert study.run(name).data.tags.get("error") == error
    if status == "finished":  # infinity is kept as NaN, not as the largest float
        assert math.isnan(study.run(name).data.metrics["train_loss"])


def test_a_cell_trained_anew_replaces_its_run(
    study: Study, make_record: MakeRecord, train: Train
) -> None:
    with study.open() as tracker:
        tracker.end_cell(make_record(test_error=5.0))
    again = make_record(test_error=6.0)
    with study.open() as tracker:
        train(tracker, again)
        tracker.end_cell(again)
    assert study.metric(again.cell.id, "test_error") == [(2, 6.0)]
    assert len(study.metric(again.cell.id, "train_loss")) == 2
    assert set(study.statuses().values()) == {"FINISHED"}


def test_a_crashed_cells_run_goes_on_when_it_is_tried_again(
    study: Study, make_record: MakeRecord, train: Train
) -> None:
    record = make_record(epochs=3)
    died = "worker \udce9 died\0"  # of a name that is no UTF-8
    crashed = replace(record, status="crashed", error=died, result=PartialResult.of([]))
    with study.open() as tracker:
        train(tracker, record, slice(0, 2))
        tracker.end_cell(crashed)
    assert study.statuses()[record.cell.id] == "FAILED"
    assert study.run(record.cell.id).data.tags["error"] == r"worker \udce9 died"
    with study.open() as tracker:
        train(tracker, record)
        tracker.end_cell(record)
    assert study.statuses()[record.cell.id] == "FINISHED"
    assert study.run(record.cell.id).data.tags["error"] == ""
    assert [step for step, _ in study.metric(record.cell.id, "train_loss")] == [1, 2, 3]
    assert study.stages(record.cell.id) == [("active", "FINISHED")]


def test_finished_cells_reach_a_second_store(
    make_study: Callable[[str], Study], make_record: MakeRecord, train: Train
) -> None:
    record = make_record()
    one, two = make_study("one"), make_study("two")
    with one.open() as tracker:
        train(tracker, record)
        tracker.end_cell(record)
    with one.open(default_tracking_uri(two.output)) as tracker:
        tracker.end_cell(record)
    assert two.content() == one.content()


@pytest.mark.parametrize(
    ("epochs", "whole"),
    [
        (450, [1000, 1000]),  # 6 metrics each: 2700, the rest goes with the end
        (497, [1000, 1000, 1000]),  # with the rest, the end would be too large
    ],
)
def test_epochs_are_buffered_and_split_at_mlflows_limit(
    epochs: int,
    whole: list[int],
    study: Study,
    make_record: MakeRecord,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = make_record(epochs=epochs)
    tracker = study.open()
    sizes: list[tuple[int, int]] = []
    send = MlflowClient.log_batch

    def count(client: MlflowClient, run_id: str, **values: Any) -> None:
        counts = [len(list(values.get(kind, ()))) for kind in ("metrics", "params", "tags")]
        sizes.append((counts[0], sum(counts)))
        send(client, run_id, **values)

    with tracker:
        tracker.start_cell(record.cell)
        monkeypatch.setattr(MlflowClient, "log_batch", count)
        monkeypatch.setattr("hpo.tracking.tracker.FLUSH_SECONDS", 1e9)
        for metrics in record.result.history:
            tracker.epoch(record.cell.id, metrics)
        assert sizes == []
        tracker.end_cell(record)
    assert [metrics for metrics, _ in sizes[:-1]] == whole
    metrics, values = sizes[-1]
    assert 6 * epochs < sum(whole) + metrics  # the end is more than the epochs
    assert max(values for _, values in sizes) <= 1000
    assert values > metrics  # parameters and tags came with it
    assert len(study.metric(record.cell.id, "lam_mean")) == epochs


def test_epochs_are_sent_while_training(
    study: Study, make_record: MakeRecord, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record()
    monkeypatch.setattr("hpo.tracking.tracker.FLUSH_SECONDS", 0.0)
    with study.open() as tracker:
        train(tracker, record, slice(0, 1))
        assert study.metric(record.cell.id, "train_loss") == [(1, 1.0)]


def test_summaries_are_updated_not_duplicated(study: Study) -> None:
    first = [
        SummaryRow("none", "digits", "", 3, 4.0, 3.5, 4.5, 10.0, 1e5),
        SummaryRow("beta-1", "digits", "alpha=1", 1, 3.0, float("nan"), float("nan"), 11.0, 1e5),
    ]
    with study.open() as tracker:
        tracker.summarise(first)
        tracker.summarise(first)
    further = {"minus_placebo": -0.5, "p_holm_placebo": float("nan")}
    better = SummaryRow("beta-1", "digits", "alpha=1.5", 2, 2.0, 1.5, 2.5, 11.0, 1e5, further)
    with study.open() as tracker:
        tracker.summarise([first[0], better])
    names = ["summary none digits", "summary beta-1 digits"]
    assert study.statuses() == dict.fromkeys(["table2", *names], "FINISHED")
    assert study.metric(names[0], "mean_error") == [(0, 4.0)]
    assert study.metric(names[1], "mean_error") == [(0, 3.0), (0, 2.0)]
    assert study.metric(names[1], "ci_low") == [(0, 1.5)]
    assert study.metric(names[1], "train_seconds") == [(0, 11.0)]
    assert study.metric(names[1], "minus_placebo") == [(0, -0.5)]
    assert study.metric(names[1], "p_holm_placebo") == []
    assert study.run(names[1]).data.tags["setting"] == "alpha=1.5"
    assert study.run(names[1]).data.tags["kind"] == "summary"


def test_summaries_say_what_the_last_command_found_and_no_more(study: Study) -> None:
    nan = float("nan")
    with study.open() as tracker:
        tracker.summarise(
            [
                SummaryRow("none", "digits", "", 3, 4.0, 3.5, 4.5, 10.0, 1e5, {"minus_a": -0.5}),
                SummaryRow("beta-1", "digits", "", 3, 4.0, 3.5, 4.5, 10.0, 1e5),
            ]
        )
    with study.open() as tracker:  # all of them diverged, and one row is no longer asked for
        tracker.summarise([SummaryRow("none", "digits", "", 0, nan, nan, nan, 9.0, 1e4)])
    assert study.statuses() == dict.fromkeys(["table2", "summary none digits"], "FINISHED")
    metrics = study.run("summary none digits").data.metrics
    known = {name: value for name, value in metrics.items() if value == value}
    assert known == {"n_seeds": 0.0, "train_seconds": 9.0, "samples_seen": 1e4}
    assert study.stages("summary beta-1 digits") == [("deleted", "FINISHED")]


FROM_2_1 = pytest.mark.skipif(
    sqlalchemy.__version__ < "2.1", reason="an older SQLAlchemy cannot: refused by name"
)


@pytest.mark.parametrize(
    "name",
    [
        "with space", "50%defects", "run%201", pytest.param("a?b", marks=FROM_2_1), "100%", "a#b",
    ],
)  # fmt: skip
def test_artifacts_lie_under_the_output_folder_and_nothing_is_printed(
    name: str,
    make_study: Callable[[str], Study],
    make_record: MakeRecord,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    copied_stores: Callable[[str], None],
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr("hpo.tracking.store.create_tables", copied_stores)  # which might print
    study = make_study(name)
    with study.open() as tracker:
        tracker.end_cell(make_record())
        (study.output / "table2.csv").write_text("a,b\n")
        tracker.log_figure_files([study.output / "table2.csv"])
    assert study.files("table2.csv") == ["table2.csv"]
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert capfd.readouterr() == ("", "")


HISTOGRAM = [4, *[0] * 18, 12]
FINDINGS = {
    "pair_epochs": [1, 2],
    "pair_lam": [[[0.25, None], [0.75, 0.5]], [[0.0, 1.0], [1.0, 0.0]]],
    "plane": [],
    "plane_labels": [],
    "intrusion": {"mean": 3.5, "minimum": 0.25},
}


def test_the_histogram_of_lam_is_a_curve_over_lam(
    study: Study, make_record: MakeRecord, train: Train
) -> None:
    """16 λ, a quarter in the lowest of 20 bins: 20 · 4 / 16 = 5 at 2.5 percent, rounded down."""
    record = make_record(lam_histogram=HISTOGRAM, lam_histogram_first=[3] * 20)
    with study.open() as tracker:
        train(tracker, record)
        tracker.end_cell(record)
        tracker.end_cell(record)
    name = record.cell.id
    density = study.metric(name, "lam_density")
    assert [step for step, _ in density] == list(range(2, 100, 5))
    assert [value for _, value in density] == [5.0, *[0.0] * 18, 15.0]
    assert [value for _, value in study.metric(name, "lam_density_first")] == [1.0] * 20


def test_what_an_analysis_found_is_there_once(study: Study, make_record: MakeRecord) -> None:
    record = make_record(findings=FINDINGS)
    for _ in range(2):  # and again, by a driver that finds it complete
        with study.open() as tracker:
            tracker.end_cell(record)
    name = record.cell.id
    assert study.metric(name, "intrusion_mean") == [(2, 3.5)]
    assert study.metric(name, "intrusion_minimum") == [(2, 0.25)]
    spread = dict(study.metric(name, "lam_pair_spread"))
    # Of 0.25, 0.75 and 0.5; of 0, 1, 1 and 0.
    assert spread == pytest.approx({1: (0.125 / 3) ** 0.5, 2: 0.5})
    assert [image.split("+timestamp")[0] for image in study.files("*.png")] == [
        f"lam_by_class_pair+step+{epoch}" for epoch in (1, 2)
    ]


def test_maps_that_were_refused_are_sent_later(
    study: Study, make_record: MakeRecord, outage: Any
) -> None:
    record = make_record(findings=FINDINGS)
    with study.open() as tracker:
        with outage("log_image"):
            tracker.end_cell(record)
        assert study.files("*.png") == []
    assert len(study.files("*.png")) == 2
    assert study.statuses()[record.cell.id] == "FINISHED"

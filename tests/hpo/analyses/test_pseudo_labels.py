from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from core.policies import NoMix
from hpo.analyses.pseudo_labels import STATISTICS, pseudo_label_figure, pseudo_labels
from hpo.cells.record import CellRecord
from hpo.report.history import epochs_table, finished_trainings
from hpo.report.outcome import Extra, Outcome
from hpo.study.rows import Row, StudyRow

MakeRecord = Callable[..., CellRecord]

ROWS = [
    StudyRow(Row("b", "B", "", "extra"), NoMix()),
    StudyRow(Row("a", "A", "", "extra"), NoMix()),
    StudyRow(Row("c", "Control", "", "placebo", control_of="a"), NoMix()),
    StudyRow(Row("plain", "Plain", "", "none"), NoMix()),
]


def history(*values: tuple[float, float | None, float]) -> list[dict[str, Any]]:
    epochs = []
    for epoch, (accepted, accuracy, threshold) in enumerate(values, start=1):
        metrics = {"epoch": float(epoch), "accepted": accepted, "threshold": threshold}
        epochs.append(metrics if accuracy is None else {**metrics, "accepted_accuracy": accuracy})
    return epochs


@pytest.fixture
def outcome(make_record: MakeRecord, outcome_of: Callable[..., Outcome]) -> Outcome:
    records = [
        make_record("a", 1, history=history((0.0, None, 0.9), (20.0, 80.0, 0.8))),
        make_record("a", 0, history=history((10.0, 90.0, 0.9), (30.0, 70.0, 0.8))),
        make_record("b", 0, history=history((40.0, 60.0, 0.95))),
        make_record("c", 0, history=history((50.0, 50.0, 0.95))),
        make_record("b", 1, status="diverged", history=history((99.0, 1.0, 0.95))),
        make_record("plain", 0),
    ]
    return outcome_of(ROWS, records)


def epochs(outcome: Outcome) -> pd.DataFrame:
    return epochs_table(finished_trainings(outcome), [*STATISTICS])


def test_every_epoch_of_every_finished_training_is_a_line(outcome: Outcome) -> None:
    frame = epochs(outcome)
    lines = list(frame.drop(columns=["dataset", "accepted_accuracy"]).itertuples(index=False))
    assert [tuple(line) for line in lines] == [
        ("b", 0, 1, 40.0, 0.95),
        ("a", 0, 1, 10.0, 0.9),
        ("a", 0, 2, 30.0, 0.8),
        ("a", 1, 1, 0.0, 0.9),
        ("a", 1, 2, 20.0, 0.8),
        ("c", 0, 1, 50.0, 0.95),
    ]
    accuracy = frame["accepted_accuracy"].to_numpy()
    np.testing.assert_array_equal(accuracy, [60.0, 90.0, 70.0, np.nan, 80.0, 50.0])


def test_it_leaves_a_csv_a_figure_and_the_last_epochs_means(outcome: Outcome) -> None:
    extra = pseudo_labels(outcome)
    assert [path.name for path in extra.files] == [
        "figure-pseudo-labels.csv",
        "figure-pseudo-labels.png",
    ]
    assert extra.files[1].stat().st_size > 10_000
    assert len(pd.read_csv(extra.files[0])) == 6
    assert extra.metrics["a", "digits"] == pytest.approx(
        {"accepted": 25.0, "accepted_accuracy": 75.0, "threshold": 0.8}
    )
    assert all(path.name in extra.markdown for path in extra.files)


def test_the_figure_has_means_over_seeds(outcome: Outcome) -> None:
    drawn = pseudo_label_figure(epochs(outcome), {"a": "A", "b": "B", "c": "C"})
    accepted, accuracy, threshold = drawn.axes
    lines = {str(line.get_label()): line for line in accepted.lines}
    assert lines["A"].get_ydata() == pytest.approx([5.0, 25.0])
    assert lines["B"].get_ydata() == pytest.approx([40.0])
    [right] = [line for line in accuracy.lines if line.get_label() == "A"]
    assert right.get_ydata() == pytest.approx([90.0, 75.0])  # of the seeds that accepted anything
    assert threshold.get_ylabel() == "threshold"


def test_a_study_without_pseudo_labels_says_nothing(
    make_record: MakeRecord, outcome_of: Callable[..., Outcome]
) -> None:
    outcome = outcome_of(ROWS, [make_record("plain", 0)])
    assert pseudo_labels(outcome) == Extra()
    assert not list(outcome.output.iterdir())

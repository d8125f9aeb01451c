from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core.policies import NoMix
from hpo.cells.record import CellRecord
from hpo.report.history import epochs_table, finished_trainings
from hpo.report.outcome import Outcome
from hpo.study.rows import Row, StudyRow

HISTORY = [{"epoch": 1.0, "a": 0.5}, {"epoch": 2.0, "train_loss": 1.0}, {"epoch": 3.0, "b": 2.0}]


def test_every_epoch_of_every_finished_training_that_has_the_metrics(
    make_record: Callable[..., CellRecord], outcome_of: Callable[..., Outcome]
) -> None:
    records = [
        make_record("two", 0, history=HISTORY),
        make_record("one", 1, history=HISTORY, dataset="mnist"),
        make_record("one", 1, history=HISTORY[:1]),
        make_record("one", 0, history=HISTORY[:1]),
        make_record("one", 2, history=HISTORY, status="diverged"),
        make_record("one", 0, history=HISTORY, purpose="search"),
        make_record("other", 0, history=HISTORY),
    ]
    rows = [StudyRow(Row(key, key, "", "extra"), NoMix()) for key in ("one", "two")]
    finished = finished_trainings(outcome_of(rows, records, ["digits", "mnist"]))
    assert [(r.cell.dataset, r.cell.method, r.cell.seed) for r in finished] == [
        ("digits", "one", 0),
        ("digits", "one", 1),
        ("digits", "two", 0),
        ("mnist", "one", 1),
    ]
    table = epochs_table(finished, ["a", "b"])
    assert list(table.columns) == ["dataset", "method", "seed", "epoch", "a", "b"]
    assert list(table["epoch"]) == [1, 1, 1, 3, 1, 3]
    np.testing.assert_array_equal(table["a"][2:4], [0.5, np.nan])
    np.testing.assert_array_equal(table["b"][2:4], [np.nan, 2.0])
    assert epochs_table(finished, ["c"]).empty

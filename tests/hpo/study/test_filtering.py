"""Rows that train without what cleanlab suspects, by the predictions of other rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.data.masks import unpack_mask
from core.policies import Beta, NoMix
from core.training.config import TrainingConfig
from core.training.prepared_data import draw_labels
from core.training.result import TrainingResult
from hpo.cells.cell import Cell
from hpo.cells.record import Status
from hpo.cells.result import PartialResult
from hpo.report.table import build_table
from hpo.search.protocol import SearchSettings
from hpo.study.plan import Plan
from hpo.study.recipes import FilteredBy
from hpo.study.row_names import chosen_rows
from hpo.study.rows import Row, StudyRow
from tests.support.digit_trainings import digits
from tests.support.results import result
from tests.support.study_bench import MadeUp, StudyBench

pytest.importorskip("cleanlab", reason="needs cleanlab (pip install '.[label-errors]')")

BASE = TrainingConfig(
    "digits", "digits_cnn", NoMix(), train_size=200, meta_size=100, epochs=1, label_noise=0.2
)
KEYS = ("fold-1", "fold-2", "fold-3")
FOLDS = [
    StudyRow(Row(key, key, "", "extra"), NoMix(), {"folds": 3, "fold": at})
    for at, key in enumerate(KEYS)
]
FILTERED = StudyRow(Row("cleanlab", "filtered", "", "extra"), FilteredBy(KEYS, Beta(0.5)))
PLAN = Plan(
    "t", [FILTERED, *FOLDS], ("digits",), range(2), {"digits": BASE}, SearchSettings(trials=1)
)
SOURCES = {("digits", None): digits()}


def knowing(cell: Cell) -> TrainingResult:
    """Returns what a network that knows the true labels predicts for the fold."""
    held_out = draw_labels(cell.training, digits()).held_out
    true = torch.from_numpy(digits().train_labels)[held_out]
    probabilities = torch.full((len(true), 10), 0.01).scatter(1, true[:, None], 0.91)
    rows = probabilities.tolist() if cell.training.folds else None
    return result(probabilities=rows, train_seconds=2.0 if cell.training.folds else 5.0)


def bench_on(output: Path, **endings: Status) -> StudyBench:
    def made_up(cell: Cell) -> MadeUp:
        ending = endings.get(f"{cell.method.replace('-', '_')}_s{cell.seed}", "finished")
        made = knowing(cell) if ending == "finished" else PartialResult.of([])
        return [], ending, made

    return StudyBench(output, PLAN, made_up, sources=SOURCES)


def test_what_is_suspected_is_left_out_of_the_training_of_the_same_seed(tmp_path: Path) -> None:
    bench = bench_on(tmp_path)
    assert bench.drive()
    assert len(bench.cells) == PLAN.size == 8
    for seed in (0, 1):
        [cell] = [c for c in bench.cells if (c.method, c.seed) == ("cleanlab", seed)]
        assert cell.training.policy == Beta(0.5)
        assert cell.training.folds == 0
        assert cell.training.left_out is not None
        labels = draw_labels(PLAN.fold_cells(FILTERED, "digits", seed)[0].training, digits())
        assert len(labels.indices) < 200  # of a fold; the mask is of all
        whole = draw_labels(replace(BASE, seed=seed), digits())
        wrong = whole.given != whole.true
        assert int(wrong.sum()) == 40
        assert torch.equal(unpack_mask(cell.training.left_out, 200), wrong)
    frame = build_table(bench.run.records, [r.row for r in PLAN.rows], ("digits",))
    assert frame.set_index("method").loc["cleanlab", "train_seconds"] == 5 + 3 * 2
    again = bench_on(tmp_path)
    assert again.run.settled
    assert again.progress.kept == 8


def test_folds_that_fail_cost_the_training_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = bench_on(tmp_path, fold_1_s1="diverged", fold_3_s1="crashed")
    assert bench.drive()
    assert [c.seed for c in bench.cells if c.method == "cleanlab"] == [0]
    assert (bench.progress.failed, bench.progress.done) == (3, 5)
    printed = [line for line in capsys.readouterr().err.splitlines() if "filtered" in line]
    assert len(printed) == 1
    assert printed[0].endswith("what is filtered by it is left out: cleanlab")


def test_its_folds_are_asked_for() -> None:
    with pytest.raises(ValueError, match=r"fold-2 is not among the rows; add them: fold-1,"):
        chosen_rows([FILTERED, *FOLDS], ["cleanlab", "fold-1", "fold-3"])

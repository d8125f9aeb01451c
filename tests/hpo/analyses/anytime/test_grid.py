"""A grid that a table trained, set against a search, by hand-made records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from core.policies import Fixed, LearnedConfig, NoMix
from core.training.config import TrainingConfig
from hpo.analyses.anytime.grid import grid_contrast
from hpo.cells.record import CellRecord
from hpo.report.outcome import Extra, Outcome
from hpo.search.protocol import SearchSettings
from hpo.search.strategies import Listed
from hpo.study.plan import Plan
from hpo.study.rows import Row, StudyRow, controls, grid_cost, grid_rows

MakeRecord = Callable[..., CellRecord]

BASE = TrainingConfig("digits", "cnn", NoMix(), epochs=2)
LEARNED = LearnedConfig()
FIRST = StudyRow(Row("first", "First", "", "learned"), LEARNED)
SECOND = StudyRow(Row("second", "Second", "", "learned"), LEARNED, {"lr": 0.2})
TRIED = tuple(Fixed(lam=lam) for lam in (0.1, 0.2))
SEARCH = StudyRow(Row("search", "Search", "", "learned"), Listed(TRIED))


def outcome(output: Path, records: list[CellRecord], rows: list[StudyRow]) -> Outcome:
    budget = 9.0 if any(row.strategy for row in rows) else None
    plan = Plan("mine", rows, ["digits"], range(2), {"digits": BASE}, SearchSettings(), budget)
    return Outcome(plan, records, {}, pd.DataFrame(), output)


@pytest.fixture
def records(make_record: MakeRecord) -> list[CellRecord]:
    """By seed and row: validation error, test error. Seed 1 takes the second of the grid."""
    stated = {
        "first": [(10.0, 31.0), (12.0, 33.0)],
        "second": [(11.0, 1.0), (9.0, 30.0)],
    }
    plan = outcome(Path(), [], [FIRST, SECOND, SEARCH]).plan
    results = []
    for cell in plan.fixed_cells():
        val, test = stated[cell.method][cell.seed]
        made = make_record(epochs=2, val_error=val, test_error=test)
        results.append(replace(made, cell=cell))
    for seed in (0, 1):
        for policy, (val, test) in zip(TRIED, [(8.0, 28.0), (7.0, 26.0 + seed)], strict=True):
            made = make_record(epochs=2, val_error=val, test_error=test)
            training = replace(BASE, policy=policy, seed=seed)
            cell = replace(made.cell, method="search", training=training, purpose="search")
            results.append(replace(made, cell=cell))
    return results


def test_the_grid_takes_its_best_by_validation_and_so_does_the_search(
    tmp_path: Path, records: list[CellRecord]
) -> None:
    extra = grid_contrast(outcome(tmp_path, records, [FIRST, SECOND, SEARCH]))
    assert [path.name for path in extra.files] == ["mine-search.csv", "mine-search.png"]
    frame = pd.read_csv(extra.files[0])
    ends = frame.groupby(["strategy", "seed"])[["cost_units", "test_error"]].last()
    assert ends.loc[("grid", 0)].tolist() == [9.0, 31.0]
    assert ends.loc[("grid", 1)].tolist() == [9.0, 30.0]
    assert ends.loc[("search", 0)].tolist() == [2.0, 26.0]
    assert ends.loc[("search", 1)].tolist() == [2.0, 27.0]
    # (26 − 31 + 27 − 30) / 2
    [line] = [text for text in extra.markdown.splitlines() if text.startswith("| Search")]
    assert "−4.00 [" in line
    assert "grid of 2" in extra.markdown


def test_the_grid_is_the_rows_that_are_no_control() -> None:
    rows = [FIRST, SECOND, *controls(FIRST), SEARCH]
    assert grid_rows(rows) == [FIRST, SECOND]
    assert grid_cost(rows) == 9.0
    assert grid_cost([SEARCH]) == 0.0


def test_a_study_that_has_not_both_says_nothing(tmp_path: Path, records: list[CellRecord]) -> None:
    for rows in ([FIRST, SECOND], [SEARCH]):
        assert grid_contrast(outcome(tmp_path, records, rows)) == Extra()

"""A table's rows as the trials of a grid, against a search that may cost as much.

The grid has trained anyway: its incumbent is the training with the lowest meta-validation error so
far, in the order of the rows. A row with a strategy has the same seeds and the same budget.
"""

from __future__ import annotations

from collections.abc import Sequence

from hpo.analyses.anytime.curves import Point, compare, curve, curve_table, curves, points
from hpo.analyses.anytime.figure import anytime_figure
from hpo.analyses.anytime.report import anytime_markdown
from hpo.report.figure_files import drawn
from hpo.report.outcome import Extra, Outcome
from hpo.report.records import final_trainings
from hpo.study.rows import StudyRow, grid_rows

GRID = "grid"


def grid_contrast(outcome: Outcome) -> Extra:
    """Writes `STUDY-search.csv` and `STUDY-search.png`; returns a table of the grid against each
    strategy.

    Empty where the study has not both.
    """
    plan = outcome.plan
    rows = grid_rows(plan.rows)
    strategies = [row for row in plan.rows if row.strategy is not None]
    if not rows or not strategies or plan.budget is None:
        return Extra()
    labels = {GRID: f"grid of {len(rows)}"} | {row.row.key: row.row.label for row in strategies}
    by_search = {
        (GRID, dataset, seed): _grid(outcome, rows, dataset, seed)
        for dataset in plan.datasets
        for seed in plan.seeds
    }
    by_search |= curves(plan, outcome.records)
    lines = compare(by_search, plan.budget, references=(GRID,))
    text = anytime_markdown(lines, labels, plan.budget, references=(GRID,))
    table, figure = curve_table(by_search).round(6), anytime_figure(by_search, labels)
    files = list(drawn(outcome, "search", table, figure))
    heading = "## The grid against a search at equal cost"
    return Extra(f"{heading}\n\n{text.replace('## ', '### ')}", files)


def _grid(outcome: Outcome, rows: Sequence[StudyRow], dataset: str, seed: int) -> list[Point]:
    plan = outcome.plan
    by_method = {
        record.cell.method: record
        for record in final_trainings(outcome.records, dataset=dataset)
        if record.cell.seed == seed
    }
    trained = [by_method[row.row.key] for row in rows if row.row.key in by_method]
    ended = (p for r in trained if r.status != "crashed" for p in points(r))
    return curve(ended, plan.budget or 0.0, ties_by_loss=plan.search.ties_by_loss)

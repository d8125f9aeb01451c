"""Anytime curves: the incumbent's error against what its search has cost so far.

Reads records and replays searches; trains nothing. The incumbent is what a user would take if the
search ended now: the finished training with the lowest meta-validation error so far; of equals the
first, or, where the plan's search says so (`SearchSettings.ties_by_loss`), the one with the lowest
meta-validation loss. Its test error is reported and selects nothing. Of a population it is the best
member at the end of a segment, as it stands.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from core.lazy import pandas as pd
from hpo.cells.cell import Cell
from hpo.cells.record import CellRecord
from hpo.report.contrasts import Contrast, contrasts, paired
from hpo.report.statistics import MeanInterval, mean_interval
from hpo.search import drive
from hpo.search.budget import ROUNDING, failed_epochs, units
from hpo.search.protocol import Search
from hpo.study.plan import Plan, SearchKey

COLUMNS = (
    "dataset", "strategy", "seed", "cost_units", "train_seconds", "samples_seen", "val_error",
    "test_error",
)  # fmt: skip
"""Of the table of curves; cost is cumulative, errors are the incumbent's in percent."""

FRACTIONS = (0.25, 0.5, 1.0)
"""Of the budget, at which strategies are compared."""

REFERENCES = ("metamixup", "tpe-alpha-asha")
"""What every other strategy is compared with at the end of the budget."""

_NAN = float("nan")


@dataclass(frozen=True)
class Point:
    """What something that can be taken, or was paid for, has cost by itself, and its errors.

    Attributes:
        units: in plain trainings, by expectation.
        train_seconds, samples_seen: as measured.
        val_error, test_error: percent; NaN of a training that did not finish.
        val_loss: meta-validation loss after the last epoch; infinite where none is known.
    """

    units: float
    train_seconds: float
    samples_seen: float
    val_error: float = _NAN
    test_error: float = _NAN
    val_loss: float = math.inf


def replay(search: Search, records: Mapping[str, CellRecord]) -> list[CellRecord]:
    """Returns the records of a search's trainings in the order in which it first asked for them.

    Args:
        search: at its beginning.
        records: by cell id; where one is missing, or crashed, the search has come no further.
    """
    replayed: dict[str, CellRecord] = {}

    def recorded(cell: Cell) -> CellRecord | None:
        record = records.get(cell.id)
        if record is None or record.status == "crashed":
            return None
        replayed.setdefault(cell.id, record)
        return record

    drive.replay(search, recorded)
    return list(replayed.values())


def points(record: CellRecord) -> list[Point]:
    """Returns what a training leaves, one point at its end; of a population one for each segment.

    The cost of a later point is what it adds to the one before.
    """
    training, result = record.cell.training, record.result
    if record.cell.population is None or record.status != "finished":
        epochs = result.epochs + failed_epochs(record.status)
        cost = units(training, epochs), result.train_seconds, result.samples_seen
        if record.status != "finished":
            return [Point(*cost)]
        trained = record.trained
        loss = trained.history[-1].get("val_loss", math.inf) if trained.history else math.inf
        return [Point(*cost, trained.val_error, trained.test_error, loss)]
    segments = []
    epochs_before = seconds = samples = 0.0
    for segment in result.history:
        segments.append(
            Point(
                units(training, segment["epochs_trained"] - epochs_before),
                segment["train_seconds"] - seconds,
                segment["samples_seen"] - samples,
                segment["val_error"],
                segment["test_error"],
                segment.get("val_loss", math.inf),
            )
        )
        epochs_before = segment["epochs_trained"]
        seconds, samples = segment["train_seconds"], segment["samples_seen"]
    return segments


def curve(trained: Iterable[Point], budget: float, *, ties_by_loss: bool = False) -> list[Point]:
    """Returns cumulative cost and the incumbent's errors after each point, to the end of the
    budget.

    Errors are NaN until something has finished.

    Args:
        trained: in the order in which they were trained.
        budget: in units.
        ties_by_loss: see `SearchSettings`.
    """

    def rank(point: Point) -> tuple[float, float]:
        return point.val_error, point.val_loss if ties_by_loss else 0.0

    incumbents: list[Point] = []
    spent = Point(0.0, 0.0, 0.0)
    for point in trained:
        better = not math.isnan(point.val_error) and (
            math.isnan(spent.val_error) or rank(point) < rank(spent)
        )
        incumbent = point if better else spent
        spent = Point(
            spent.units + point.units,
            spent.train_seconds + point.train_seconds,
            spent.samples_seen + point.samples_seen,
            incumbent.val_error,
            incumbent.test_error,
            incumbent.val_loss,
        )
        if spent.units > budget + ROUNDING:
            break
        incumbents.append(spent)
    return incumbents


def curves(plan: Plan, records: Iterable[CellRecord]) -> dict[SearchKey, list[Point]]:
    """Returns the curve of each strategy, data set and seed of a plan, in the order of its rows."""
    by_id = {record.cell.id: record for record in records}
    searches, budget = plan.open_searches(), plan.budget or 0.0
    methods = [row.row.key for row in plan.rows if row.strategy is not None]
    return {
        key: curve(
            (p for r in replay(searches[key], by_id) for p in points(r)),
            budget,
            ties_by_loss=plan.search.ties_by_loss,
        )
        for key in ((m, d, s) for d, m, s in product(plan.datasets, methods, plan.seeds))
    }


def curve_table(by_search: Mapping[SearchKey, Sequence[Point]]) -> pd.DataFrame:
    """Returns all curves, one row for each point; see COLUMNS."""
    lines = [
        (dataset, method, seed, p.units, p.train_seconds, p.samples_seen, p.val_error, p.test_error)
        for (method, dataset, seed), trained in by_search.items()
        for p in trained
    ]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def standing(trained: Sequence[Point], units_spent: float) -> float:
    """Returns the incumbent's test error once so much is spent; NaN where there is none yet."""
    reached = [point for point in trained if point.units <= units_spent + ROUNDING]
    return reached[-1].test_error if reached else _NAN


def errors_at(
    by_search: Mapping[SearchKey, Sequence[Point]],
    method: str,
    dataset: str,
    units_spent: float,
) -> dict[int, float]:
    """Returns the test error of a strategy's incumbent by seed; seeds that have none yet are left
    out."""
    at = {
        seed: standing(trained, units_spent)
        for (key, name, seed), trained in by_search.items()
        if (key, name) == (method, dataset)
    }
    return {seed: error for seed, error in at.items() if not math.isnan(error)}


@dataclass(frozen=True)
class Line:
    """One strategy on one data set.

    Attributes:
        at: error over seeds at each of FRACTIONS of the budget; NaN until all seeds that come to an
            incumbent at all have one.
        against: the contrast with each of the references at the end, its p adjusted for all
            comparisons of the data set; without those with itself.
    """

    method: str
    dataset: str
    at: tuple[MeanInterval, ...]
    against: Mapping[str, Contrast]


def compare(
    by_search: Mapping[SearchKey, Sequence[Point]],
    budget: float,
    references: Sequence[str] = REFERENCES,
) -> list[Line]:
    """Says where the strategies stand, data set by data set; compared with each of `references`."""
    lines = []
    for dataset in dict.fromkeys(dataset for _, dataset, _ in by_search):
        methods = list(dict.fromkeys(method for method, name, _ in by_search if name == dataset))
        ends = {method: errors_at(by_search, method, dataset, budget) for method in methods}
        pairs = [(m, r) for m in methods for r in references if r in ends and m != r]
        # One difference, told from both sides, is one comparison.
        distinct = list({frozenset(pair): pair for pair in reversed(pairs)}.values())
        family = contrasts({frozenset((m, r)): (ends[m], ends[r]) for m, r in distinct})
        for method in methods:
            at = []
            for fraction in FRACTIONS:
                errors = errors_at(by_search, method, dataset, fraction * budget)
                complete = errors.keys() == ends[method].keys()
                at.append(mean_interval(list(errors.values()) if complete else []))
            against = {
                reference: Contrast(
                    paired(ends[method], ends[reference]),
                    family[frozenset((method, reference))].p_holm,
                )
                for reference in references
                if (method, reference) in pairs
            }
            lines.append(Line(method, dataset, tuple(at), against))
    return lines

"""A policy that is trained once against searches that may go on, at every budget between."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from core.lazy import pandas as pd
from hpo.analyses.anytime.curves import Point, errors_at
from hpo.report.contrasts import paired
from hpo.report.markdown import difference, padded_table
from hpo.search.budget import ROUNDING
from hpo.search.strategies import Listed
from hpo.study.plan import Plan, SearchKey

COLUMNS = (
    "dataset", "strategy", "against", "units", "n_seeds", "difference", "ci_low", "ci_high",
    "p_value",
)  # fmt: skip
"""Of the table: the error of `strategy` minus that of `against` at each budget, in percent."""


def budget_table(plan: Plan, by_search: Mapping[SearchKey, Sequence[Point]]) -> pd.DataFrame:
    """Returns the paired differences of each policy that is trained once to each search, at every
    budget at which an incumbent of either changes; see COLUMNS.

    Intervals and p are of one budget each, and not adjusted.

    Args:
        plan: says which strategies train once.
        by_search: of `hpo.analyses.anytime.curves.curves`.
    """
    strategies = [(row.row.key, row.strategy) for row in plan.rows if row.strategy is not None]
    once = [key for key, s in strategies if isinstance(s, Listed) and len(s.policies) == 1]
    searches = [key for key, _ in strategies if key not in once]
    lines = []
    for dataset in plan.datasets:
        for strategy in once:
            start = max(_places(by_search, strategy, dataset), default=float("inf"))
            for against in searches:
                later = [p for p in _places(by_search, against, dataset) if p > start]
                for units in _distinct([start, *later]):
                    at = paired(
                        errors_at(by_search, strategy, dataset, units),
                        errors_at(by_search, against, dataset, units),
                    )
                    if at.n:  # none while one of them has no incumbent
                        lines.append((dataset, strategy, against, units, at.n, *at[:4]))
    return pd.DataFrame(lines, columns=list(COLUMNS))


def budget_markdown(table: pd.DataFrame, labels: Mapping[str, str]) -> str:
    """Returns for each pair at how many budgets the policy trained once has no more errors on the
    mean, and the budget at which it stands worst; empty for an empty table."""
    if table.empty:
        return ""
    cells = []
    for (dataset, strategy, against), at in table.groupby(
        ["dataset", "strategy", "against"], sort=False
    ):
        worst = at.loc[at["difference"].idxmax()]
        cells.append(
            [
                str(dataset),
                labels[str(strategy)],
                labels[str(against)],
                f"{at['units'].min():.3g} to {at['units'].max():.3g}",
                f"{(at['difference'] <= 0).sum()} of {len(at)}",
                difference(worst["difference"], worst["ci_low"], worst["ci_high"]),
                f"{worst['units']:.3g}",
            ]
        )
    header = [
        "data set", "once", "search", "budgets", "no more errors at", "worst difference", "at",
    ]  # fmt: skip
    note = (
        "- Budgets are those, in units, at which an incumbent changes once the policy is trained. "
        "The worst difference, once minus search, is the highest mean over seeds with its 95 % "
        "interval, paired, of this one budget: below 0 there are fewer errors at every budget."
    )
    return "\n\n".join(["## Trained once, at every budget", padded_table(header, cells), note])


def _places(
    by_search: Mapping[SearchKey, Sequence[Point]], method: str, dataset: str
) -> set[float]:
    """Returns what was spent, in units, where a seed's incumbent changes."""
    places = set()
    for (key, name, _), trained in by_search.items():
        before = float("nan")
        for point in trained if (key, name) == (method, dataset) else ():
            if point.test_error == point.test_error and point.test_error != before:
                before = point.test_error
                places.add(point.units)
    return places


def _distinct(places: Iterable[float]) -> list[float]:
    """Returns them in ascending order, of those that differ by rounding the largest."""
    distinct: list[float] = []
    for place in sorted(places):
        if distinct and place - distinct[-1] <= ROUNDING:
            distinct.pop()
        distinct.append(place)
    return distinct

"""Main effects of the factors of a factorial of readings, on how far λ moves and on the error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.lazy import pandas as pd
from hpo.analyses.readings.ranking import moves
from hpo.report.contrasts import Values, paired
from hpo.report.outcome import Outcome
from hpo.report.records import results_by_seed
from hpo.report.statistics import mean_interval

EFFECT_COLUMNS = (
    "dataset", "factor", "level", "readings", "moves", "moves_low", "moves_high", "mean_error",
    "ci_low", "ci_high", "diff", "diff_low", "diff_high",
)  # fmt: skip
"""Of the table of main effects. moves are fractions, errors and differences percent."""


@dataclass(frozen=True)
class DesignPoint:
    """A combination of levels of a factorial, and the key of the row that stands for it.

    Attributes:
        levels: level by factor, such as {"projection": "clip"}.
        key: of a row; combinations that are the same reading share one.
    """

    levels: Mapping[str, str]
    key: str


def main_effects(outcome: Outcome, design: Sequence[DesignPoint]) -> pd.DataFrame:
    """Returns the means of each factor's levels over the design's combinations; see EFFECT_COLUMNS.

    Within a seed moves and error are averaged over the level's combinations, the mean over seeds
    has a Student-t interval. diff is the level's error minus that of all combinations, seed by
    seed: what the seeds have in common drops out of its interval.

    Combinations whose row lacks a seed that another has are left out, and factors of which one
    level remains.
    """
    lines = []
    for dataset in outcome.plan.datasets:
        keys = {point.key for point in design} & {row.row.key for row in outcome.plan.rows}
        results = {key: results_by_seed(outcome.records, dataset, key) for key in sorted(keys)}
        seeds = sorted(set().union(*results.values()))
        complete = [p for p in design if seeds and sorted(results.get(p.key, {})) == seeds]
        moved_by = {p.key: {s: moves(results[p.key][s]) for s in seeds} for p in complete}
        errors = {p.key: {s: results[p.key][s].test_error for s in seeds} for p in complete}
        everything = _mean_of(errors, complete)
        for factor, level in _levels(complete):
            points = [point for point in complete if point.levels[factor] == level]
            moved = mean_interval(list(_mean_of(moved_by, points).values()))
            of_level = _mean_of(errors, points)
            error, diff = mean_interval(list(of_level.values())), paired(of_level, everything)
            numbers = (len({point.key for point in points}), *moved[:3], *error[:3], *diff[:3])
            lines.append((dataset, factor, level, *numbers))
    return pd.DataFrame(lines, columns=list(EFFECT_COLUMNS))


def _levels(points: Sequence[DesignPoint]) -> list[tuple[str, str]]:
    """Returns factor and level, by factor; of the factors of which there is more than one level."""
    levels_of: dict[str, dict[str, None]] = {}
    for point in points:
        for factor, level in point.levels.items():
            levels_of.setdefault(factor, {})[level] = None
    return [
        (factor, level)
        for factor, levels in levels_of.items()
        if len(levels) > 1
        for level in levels
    ]


def _mean_of(values: Mapping[str, Values], points: Sequence[DesignPoint]) -> Values:
    """Returns the mean over points, seed by seed."""
    seeds = sorted(set().union(*(values[p.key] for p in points)))
    return {seed: float(np.mean([values[p.key][seed] for p in points])) for seed in seeds}

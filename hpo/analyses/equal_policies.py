"""How often the paired t test tells copies of one policy apart, which it should in 5 % of pairs."""

from __future__ import annotations

from typing import Any

import numpy as np

from core.lazy import pandas as pd
from core.policies import Beta
from hpo.report.contrasts import LEVEL
from hpo.report.markdown import number, padded_table, probability
from hpo.report.outcome import Extra, Outcome
from hpo.report.records import errors_by_seed
from hpo.report.statistics import holm
from hpo.report.style import short_name
from hpo.storage.atomic import write_csv

SEEDS = (3, 5, 10, 20, 30)
"""Seeds of a comparison; those that are there are cut into blocks of each of these sizes."""

_DRAWN = 1000
"""Draws of equal normal variables, for the range of chance."""

_HEADER = ("seeds", "comparisons", "p < 0.05 (%)", "by chance (%)", "tables (%)")


def equal_policies(outcome: Outcome) -> Extra:
    """Writes `STUDY-chance.csv`, a line for each data set and number of seeds, and says whether
    copies of one policy differ by more than their seeds explain.

    Its columns: seeds of a comparison; copies; comparisons (pairs of copies, times blocks of so
    many seeds); below (percent of them with p < 0.05); chance_low, chance_high (where that lies in
    95 % of draws of equal normal variables); tables (percent of tables, a copy against all others,
    in which the smallest p is below 0.05 after Holm's correction); f, p_value (analysis of variance
    of all copies and seeds, seeds as blocks); spread (standard deviation of a copy's mean, percent
    of images), spread_by_chance (what the residuals explain of it).
    """
    lines = []
    for dataset in outcome.plan.datasets:
        errors = _errors(outcome, dataset)
        if errors.shape[0] >= SEEDS[0] and errors.shape[1] > 1:
            lines += [{"dataset": dataset, **line} for line in chance(errors)]
    if not lines:
        return Extra()
    frame = pd.DataFrame(lines)
    path = write_csv(outcome.file("chance.csv"), frame.round(6))
    parts = [_text(here) for _, here in frame.groupby("dataset", sort=False)]
    return Extra("\n\n".join(["## Equal policies", *parts, _NOTE]) + "\n", [path])


def chance(errors: np.ndarray) -> list[dict[str, float]]:
    """Returns the lines that `equal_policies` writes of one data set.

    Args:
        errors: float array (seeds, copies), in percent.
    """
    n, copies = errors.shape
    whole = _variance(errors)
    random = np.random.default_rng(0)
    lines = []
    for seeds in sorted({size for size in SEEDS if size < n} | {n}):
        blocks = n // seeds
        p = p_values(errors[: blocks * seeds].reshape(blocks, seeds, copies))
        drawn = [
            _below(p_values(random.normal(size=(blocks, seeds, copies)))) for _ in range(_DRAWN)
        ]
        low, high = np.quantile(drawn, (0.025, 0.975))
        tables = [
            min(holm(np.delete(line, i).tolist())) < LEVEL
            for square in p
            for i, line in enumerate(square)
        ]
        lines.append(
            {
                "seeds": seeds,
                "copies": copies,
                "comparisons": blocks * copies * (copies - 1) // 2,
                "below": _below(p),
                "chance_low": float(low),
                "chance_high": float(high),
                "tables": 100 * float(np.mean(tables)),
                **whole,
            }
        )
    return lines


def p_values(errors: np.ndarray) -> np.ndarray:
    """Returns p of `hpo.paired_comparison` for each two columns, as (..., copies, copies).

    Two columns that are equal, or differ by one number in all rows, have p = 1.

    Args:
        errors: float array (..., seeds, copies).
    """
    from scipy import special

    n = errors.shape[-2]
    differences = errors[..., :, None] - errors[..., None, :]
    spread = differences.std(-3, ddof=1)
    some = spread > 1e-9
    t = np.divide(differences.mean(-3) * n**0.5, spread, out=np.zeros_like(spread), where=some)
    p: np.ndarray = 2 * special.stdtr(n - 1, -np.abs(t))
    return p


def _errors(outcome: Outcome, dataset: str) -> np.ndarray:
    """Returns the test errors of all copies with finished trainings (seeds, copies), for the seeds
    that all of them have."""
    copies = [
        errors
        for row in outcome.plan.rows
        if isinstance(row.policy, Beta)
        and row.differs_in_policy_alone
        and (errors := errors_by_seed(outcome.records, row.row.key, dataset))
    ]
    seeds = sorted(set.intersection(*map(set, copies))) if copies else []
    return np.array([[errors[seed] for errors in copies] for seed in seeds]).reshape(
        len(seeds), len(copies)
    )


def _below(squares: np.ndarray) -> float:
    """Returns the percentage of pairs with p < 0.05, of what `p_values` gives of blocks."""
    above = np.triu_indices(squares.shape[-1], 1)
    return 100 * float((squares[..., above[0], above[1]] < LEVEL).mean())


def _variance(errors: np.ndarray) -> dict[str, float]:
    """Returns the analysis of variance of `equal_policies`."""
    from scipy import stats

    n, copies = errors.shape
    between = errors.mean(0) - errors.mean()
    residuals = errors - errors.mean(1, keepdims=True) - between
    of_copies, of_residuals = copies - 1, (copies - 1) * (n - 1)
    residual = float((residuals**2).sum()) / of_residuals
    f = n * float((between**2).sum()) / of_copies / residual if residual > 0 else float("nan")
    return {
        "f": f,
        "p_value": float(stats.f.sf(f, of_copies, of_residuals)),
        "spread": float(between.std(ddof=1)),
        "spread_by_chance": (residual / n) ** 0.5,
    }


def _text(lines: pd.DataFrame) -> str:
    first: dict[str, Any] = lines.iloc[0].to_dict()
    table = padded_table(
        _HEADER,
        [
            (
                f"{line['seeds']}",
                f"{line['comparisons']}",
                f"{line['below']:.1f}",
                f"{line['chance_low']:.1f} to {line['chance_high']:.1f}",
                f"{line['tables']:.0f}",
            )
            for line in lines.to_dict("records")
        ],
    )
    differ = first["p_value"] < LEVEL
    verdict = "differ by more than" if differ else "are not shown to differ by more than"
    return (
        f"### {short_name(first['dataset'])}\n\n{table}\n\n"
        f"- The means of {first['copies']} copies have a standard deviation of "
        f"{first['spread']:.2f} points, where seeds explain {first['spread_by_chance']:.2f}: they "
        f"{verdict} their seeds explain (F = {number(first['f'], '{:.2f}')}, p "
        f"{probability(first['p_value'])})."
    )


_NOTE = (
    "- comparisons: pairs of copies, times the blocks into which the seeds are cut. p < 0.05: of "
    "the paired t test, not adjusted. by chance: where 95 % of draws of equal normal variables "
    "lie. tables: a copy against all others, in which Holm's p of one or more is below 0.05."
)

"""This module compares policies by Proposition 1: both sides of (P2) by epoch, κ against that
without mixing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from core.analysis.proposition1 import OUTPUTS
from core.lazy import pandas as pd
from hpo.cells.record import CellRecord
from hpo.report.contrasts import Contrast, contrasts
from hpo.report.statistics import mean_interval
from hpo.study.rows import Row

REFERENCE = "none"
"""The row that κ is compared with: training without mixing."""

NUMBERS = (
    "kappa", "kappa_median", "ratio", "ratio_median", "share", "share_median", "along_median",
    "above", "growth", "gap", "mixup_l1", "l1_above",
)  # fmt: skip
"""Numbers of a look, see `core.analysis.curvature.look`; only the probability has the last two."""

LOOK_COLUMNS = ("dataset", "method", "seed", "epoch", "output", *NUMBERS)

COMPARISON_COLUMNS = (
    "dataset", "output", "method", "n_seeds", "kappa", "kappa_over_none", "ci_low", "ci_high",
    "p_value", "p_holm", "ratio", "share", "share_median", "along_median", "above", "growth", "gap",
    "mixup_l1", "l1_above_first", "l1_above",
)  # fmt: skip
CHANGES = {
    "loss": ("probability", "mixup_l1"),
    "probability": ("probability", "kappa"),
    "logit": ("logit", "kappa"),
}
"""What is compared between the first look and the last: MixUp's loss, and κ of both outputs."""

CHANGE_COLUMNS = (
    "dataset", "method", "quantity", "n_seeds", "first_epoch", "last_epoch", "last_over_first",
    "ci_low", "ci_high", "p_value", "p_holm",
)  # fmt: skip


def looks_table(records: Iterable[CellRecord]) -> pd.DataFrame:
    """Returns every look at these finished trainings, in their order, with `LOOK_COLUMNS`: a line
    for each training, epoch that was looked at, and output."""
    lines = [
        {
            "dataset": record.cell.dataset,
            "method": record.cell.method,
            "seed": record.cell.seed,
            "epoch": int(metrics["epoch"]),
            "output": output,
            **{name: metrics.get(f"{output}_{name}", math.nan) for name in NUMBERS},
        }
        for record in records
        for metrics in record.result.history
        for output in OUTPUTS
        if f"{output}_kappa" in metrics
    ]
    return pd.DataFrame(lines, columns=list(LOOK_COLUMNS))


def compare_curvature(looks: pd.DataFrame, rows: Sequence[Row]) -> pd.DataFrame:
    """Returns what the networks ended with, one line for each data set, output and method.

    κ, and the ratio that (P2) bounds by it, are geometric means over seeds. ``kappa_over_none`` is
    that of the quotients to the row `REFERENCE` over the seeds that both have, with 95 % interval
    and p of the paired t test of logarithms, adjusted by Holm's method over the comparisons of one
    data set. ``share`` and ``growth`` are the largest over seeds and *all* epochs looked at,
    ``above`` is the number of pairs over all of these; ``l1_above_first`` is of the first epoch;
    the rest are means over seeds.

    Args:
        looks: of `looks_table`.
        rows: of the study.
    """
    lines: list[dict[str, Any]] = []
    for dataset, groups in _by_dataset(looks, rows):
        kappas = {key: _logarithms(group, "kappa", last=True) for key, group in groups.items()}
        quotients = contrasts(
            {
                (output, method): (kappa, kappas[output, REFERENCE])
                for (output, method), kappa in kappas.items()
                if method != REFERENCE and (output, REFERENCE) in kappas
            }
        )
        for (output, method), group in groups.items():
            last, first = (group[group["epoch"] == f(group["epoch"])] for f in (max, min))
            means = ("share_median", "along_median", "gap", "mixup_l1", "l1_above")
            lines.append(
                {"dataset": dataset, "output": output, "method": method, "n_seeds": len(last)}
                | {"kappa": _geometric_mean(last["kappa"]), "ratio": _geometric_mean(last["ratio"])}
                | {name: group[name].max() for name in ("share", "growth")}
                | {"above": int(group["above"].sum())}
                | {"l1_above_first": first["l1_above"].mean()}
                | {name: last[name].mean() for name in means}
                | _quotient("kappa_over_none", quotients.get((output, method)))
            )
    return pd.DataFrame(lines, columns=list(COMPARISON_COLUMNS))


def compare_over_training(looks: pd.DataFrame, rows: Sequence[Row]) -> pd.DataFrame:
    """Returns what became of `CHANGES` between the first epoch looked at and the last, one line
    each.

    ``last_over_first`` is the geometric mean over seeds of the quotient, with 95 % interval and p
    of the paired t test of logarithms, adjusted by Holm's method over all of one data set.

    Args:
        looks: of `looks_table`.
        rows: of the study.
    """
    lines: list[dict[str, Any]] = []
    for dataset, groups in _by_dataset(looks, rows):
        pairs = {}
        for row in rows:
            for quantity, (output, column) in CHANGES.items():
                if (group := groups.get((output, row.key))) is not None:
                    last = _logarithms(group, column, last=True)
                    pairs[row.key, quantity] = last, _logarithms(group, column, last=False)
        quotients = contrasts(pairs)
        for (method, quantity), contrast in quotients.items():
            epochs = groups[CHANGES[quantity][0], method]["epoch"]
            if contrast.paired.n:
                lines.append(
                    {"dataset": dataset, "method": method, "quantity": quantity}
                    | {"n_seeds": contrast.paired.n}
                    | {"first_epoch": epochs.min(), "last_epoch": epochs.max()}
                    | _quotient("last_over_first", contrast)
                )
    return pd.DataFrame(lines, columns=list(CHANGE_COLUMNS))


def _by_dataset(
    looks: pd.DataFrame, rows: Sequence[Row]
) -> Iterator[tuple[str, dict[tuple[str, str], pd.DataFrame]]]:
    """Yields each data set with its looks by output and method, in the order of the rows."""
    keys = [(output, row.key) for output in OUTPUTS for row in rows]
    for dataset, here in looks.groupby("dataset", sort=False):
        groups = dict(iter(here.groupby(["output", "method"])))
        yield str(dataset), {key: groups[key] for key in keys if key in groups}


def _logarithms(group: pd.DataFrame, column: str, *, last: bool) -> dict[int, float]:
    """Returns the logarithm by seed at the last or first epoch, of the values above 0."""
    epoch = group["epoch"].max() if last else group["epoch"].min()
    shown = group[(group["epoch"] == epoch) & (group[column] > 0)]
    return dict(zip(shown["seed"], shown[column].map(math.log), strict=True))


def _geometric_mean(values: pd.Series) -> float:
    return math.exp(mean_interval([math.log(value) for value in values if value > 0]).mean)


def _quotient(name: str, contrast: Contrast | None) -> dict[str, float]:
    """Returns a difference of logarithms as a quotient, with interval and p."""
    if contrast is None:
        return {}
    paired = contrast.paired
    return {
        name: math.exp(paired.difference),
        "ci_low": math.exp(paired.low),
        "ci_high": math.exp(paired.high),
        "p_value": paired.p_value,
        "p_holm": contrast.p_holm,
    }

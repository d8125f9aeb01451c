"""Proposition 1 over policies: both sides of (P2) by epoch, κ against that without mixing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from core.analysis.proposition1 import OUTPUTS
from hpo.cells.record import CellRecord
from hpo.report.statistics import holm, mean_interval, paired_comparison
from hpo.study.rows import Row

REFERENCE = "none"
"""The row that κ is compared with: training without mixing."""

NUMBERS = (
    "kappa", "kappa_median", "ratio", "ratio_median", "share", "share_median", "along_median",
    "above", "growth", "gap", "mixup_l1", "l1_above",
)  # fmt: skip
"""Of one look; see `core.analysis.curvature.look`. The last two are of the probability alone."""

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
_NAN = float("nan")


def looks_table(records: Sequence[CellRecord], methods: Sequence[str]) -> pd.DataFrame:
    """Every look of the finished final cells of these methods, with `LOOK_COLUMNS`.

    Returns:
        One line for each training, epoch that was looked at, and output; by data set as they come,
        method in the order given, seed, epoch.
    """
    of_methods = {
        method: [
            record
            for record in records
            if (record.cell.method, record.cell.purpose) == (method, "final")
            and record.status == "finished"
        ]
        for method in methods
    }
    datasets = dict.fromkeys(record.cell.dataset for record in records)
    lines = [
        _line(record, metrics, output)
        for dataset in datasets
        for method in methods
        for record in sorted(of_methods[method], key=lambda record: record.cell.seed)
        if record.cell.dataset == dataset
        for metrics in record.result["history"]
        for output in OUTPUTS
        if f"{output}_kappa" in metrics
    ]
    return pd.DataFrame(lines, columns=list(LOOK_COLUMNS))


def compare_curvature(looks: pd.DataFrame, rows: Sequence[Row]) -> pd.DataFrame:
    """What the networks ended with, one line for each data set, output and method.

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
    for dataset in looks["dataset"].unique():
        here = [
            _compared(looks[(looks["dataset"] == dataset) & (looks["output"] == output)], row.key)
            | {"dataset": dataset, "output": output, "method": row.key}
            for output in OUTPUTS
            for row in rows
        ]
        adjusted = holm([line["p_value"] for line in here])
        for line, p_holm in zip(here, adjusted, strict=True):
            line["p_holm"] = p_holm
        lines += [line for line in here if line["n_seeds"]]
    return pd.DataFrame(lines, columns=list(COMPARISON_COLUMNS))


def compare_over_training(looks: pd.DataFrame, rows: Sequence[Row]) -> pd.DataFrame:
    """What became of `CHANGES` between the first epoch looked at and the last, one line each.

    ``last_over_first`` is the geometric mean over seeds of the quotient, with 95 % interval and p
    of the paired t test of logarithms, adjusted by Holm's method over all of one data set.

    Args:
        looks: of `looks_table`.
        rows: of the study.
    """
    lines: list[dict[str, Any]] = []
    for dataset in looks["dataset"].unique():
        here = [
            {"dataset": dataset, "method": row.key, "quantity": quantity}
            | _changed(
                looks[
                    (looks["dataset"] == dataset)
                    & (looks["output"] == output)
                    & (looks["method"] == row.key)
                ],
                column,
            )
            for row in rows
            for quantity, (output, column) in CHANGES.items()
        ]
        adjusted = holm([line["p_value"] for line in here])
        for line, p_holm in zip(here, adjusted, strict=True):
            line["p_holm"] = p_holm
        lines += [line for line in here if line["n_seeds"]]
    return pd.DataFrame(lines, columns=list(CHANGE_COLUMNS))


def _changed(own: pd.DataFrame, column: str) -> dict[str, Any]:
    epochs = own["epoch"].min(), own["epoch"].max()
    first, last = (
        {
            int(line["seed"]): math.log(line[column])
            for line in own[own["epoch"] == epoch].to_dict("records")
            if line[column] > 0
        }
        for epoch in epochs
    )
    shared = sorted(first.keys() & last.keys())
    found = paired_comparison([last[seed] for seed in shared], [first[seed] for seed in shared])
    return {
        "n_seeds": found.n,
        "first_epoch": epochs[0],
        "last_epoch": epochs[1],
        "last_over_first": math.exp(found.difference),
        "ci_low": math.exp(found.low),
        "ci_high": math.exp(found.high),
        "p_value": found.p_value,
    }


def _line(record: CellRecord, metrics: Mapping[str, float], output: str) -> dict[str, Any]:
    cell = record.cell
    return {
        "dataset": cell.dataset,
        "method": cell.method,
        "seed": cell.seed,
        "epoch": int(metrics["epoch"]),
        "output": output,
        **{name: metrics.get(f"{output}_{name}", _NAN) for name in NUMBERS},
    }


def _compared(looks: pd.DataFrame, method: str) -> dict[str, Any]:
    own = looks[looks["method"] == method]
    last = own[own["epoch"] == own["epoch"].max()]
    mine, reference = (_logarithms(looks, key) for key in (method, REFERENCE))
    shared = sorted(mine.keys() & reference.keys()) if method != REFERENCE else []
    found = paired_comparison([mine[s] for s in shared], [reference[s] for s in shared])
    means = {
        name: float(last[name].mean())
        for name in ("share_median", "along_median", "gap", "mixup_l1", "l1_above")
    }
    return {
        "n_seeds": len(last),
        "kappa": math.exp(mean_interval(list(mine.values())).mean),
        "kappa_over_none": math.exp(found.difference),
        "ci_low": math.exp(found.low),
        "ci_high": math.exp(found.high),
        "p_value": found.p_value,
        "ratio": _geometric_mean(last["ratio"]),
        "share": float(own["share"].max()),
        "above": int(own["above"].sum()),
        "growth": float(own["growth"].max()),
        "l1_above_first": float(own[own["epoch"] == own["epoch"].min()]["l1_above"].mean()),
        **means,
    }


def _logarithms(looks: pd.DataFrame, method: str) -> dict[int, float]:
    """log κ at the last epoch by seed, of networks that have curvature."""
    own = looks[looks["method"] == method]
    last = own[(own["epoch"] == own["epoch"].max()) & (own["kappa"] > 0)]
    return {int(line["seed"]): math.log(line["kappa"]) for line in last.to_dict("records")}


def _geometric_mean(values: pd.Series) -> float:
    positive = [math.log(value) for value in values if value > 0]
    return math.exp(mean_interval(positive).mean)

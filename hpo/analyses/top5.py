"""This module puts top-5 errors beside top-1, of data sets with 100 classes or more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.lazy import pandas as pd
from hpo.report.markdown import error, number, padded_table, plus_minus
from hpo.report.outcome import Extra, ExtraReport, Outcome
from hpo.report.statistics import mean_interval
from hpo.storage.atomic import write_csv

_TOP1 = ("dataset", "method", "n_seeds", "mean_error", "ci_low", "ci_high", "paper_error")
COLUMNS = (*_TOP1, "mean_top5_error", "top5_ci_low", "top5_ci_high", "paper_top5_error")
"""Columns of the CSV; all errors in percent."""

_HEADER = ("method", "top-1 error (%)", "top-5 error (%)", "n", "paper top-1", "paper top-5")


def top5_report(paper: Mapping[tuple[str, str], float]) -> ExtraReport:
    """Returns a part of the report: `STUDY-top5.csv`, a table of it, and its numbers for the
    summary runs. A study whose data sets have fewer than 100 classes has no such part.

    Args:
        paper: the paper's top-5 errors by (row, data set).
    """

    def top5(outcome: Outcome) -> Extra:
        frame = _compared(outcome, paper)
        if frame.empty:
            return Extra()
        path = write_csv(outcome.file("top5.csv"), frame.round(4))
        parts, metrics = ["## Top-5 error"], {}
        for dataset, lines in frame.groupby("dataset", sort=False):
            cells = [_cells(line, outcome.labels) for line in lines.to_dict("records")]
            parts += [f"### {dataset}", padded_table(_HEADER, cells)]
            for method, mean in zip(lines["method"], lines["mean_top5_error"], strict=True):
                metrics[method, str(dataset)] = {"mean_top5_error": mean}
        parts.append(
            "- Errors as in the table above; top-5 is wrong where the label is not among the five "
            "classes of the largest outputs."
        )
        return Extra("\n\n".join(parts), [path], metrics)

    return top5


def _compared(outcome: Outcome, paper: Mapping[tuple[str, str], float]) -> pd.DataFrame:
    """Returns both errors of each row and data set that have top-5 errors; see COLUMNS."""
    rows = {row.row.key: row for row in outcome.plan.rows}
    lines: list[dict[str, Any]] = []
    for line in outcome.frame.to_dict("records"):
        method, dataset = line["method"], line["dataset"]
        errors = [
            result.test_top5_error
            for result in outcome.results(dataset, rows[method]).values()
            if result.test_top5_error is not None
        ]
        if errors:
            interval = mean_interval(errors)
            lines.append(
                {name: line[name] for name in _TOP1}
                | dict(zip(COLUMNS[-4:], interval[:3], strict=False))
                | {"paper_top5_error": paper.get((method, dataset), float("nan"))}
            )
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _cells(line: Mapping[str, Any], labels: Mapping[str, str]) -> tuple[str, ...]:
    return (
        labels[line["method"]],
        error(line),
        plus_minus(line["mean_top5_error"], line["top5_ci_high"]),
        str(line["n_seeds"]),
        number(line["paper_error"], "{:.2f}"),
        number(line["paper_top5_error"], "{:.2f}"),
    )

"""Top-5 errors beside top-1, of data sets with 100 classes or more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from hpo.cells.record import CellRecord
from hpo.report.markdown import error, number, padded_table
from hpo.report.outcome import Extra, ExtraReport, Outcome
from hpo.report.statistics import mean_interval
from hpo.storage.atomic import write_atomically

COLUMNS = (
    "dataset",
    "method",
    "n_seeds",
    "mean_error",
    "ci_low",
    "ci_high",
    "paper_error",
    "mean_top5_error",
    "top5_ci_low",
    "top5_ci_high",
    "paper_top5_error",
)
"""Of the CSV; all errors in percent."""

_HEADER = ("method", "top-1 error (%)", "top-5 error (%)", "n", "paper top-1", "paper top-5")


def top5_report(paper: Mapping[tuple[str, str], float]) -> ExtraReport:
    """A part of the report: `STUDY-top5.csv`, a table of it, and its numbers for the summary runs.

    Empty where no data set has 100 classes.

    Args:
        paper: the paper's top-5 errors by (row, data set).
    """

    def top5(outcome: Outcome) -> Extra:
        frame = compare(outcome, paper)
        if frame.empty:
            return Extra()
        path = outcome.output / f"{outcome.plan.study}-top5.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, frame.round(4).to_csv(index=False, lineterminator="\n"))
        labels = {row.row.key: row.row.label for row in outcome.plan.rows}
        parts = ["## Top-5 error"]
        for dataset in frame["dataset"].unique():
            lines = frame[frame["dataset"] == dataset].to_dict("records")
            parts += [f"### {dataset}", padded_table(_HEADER, [_cells(e, labels) for e in lines])]
        parts.append("- Errors as in the table above; top-5 is wrong where the label is not among "
                     "the five classes of the largest outputs.")  # fmt: skip
        metrics = {
            (line["method"], line["dataset"]): {"mean_top5_error": line["mean_top5_error"]}
            for line in frame.to_dict("records")
        }
        return Extra("\n\n".join(parts), [path], metrics)

    return top5


def compare(outcome: Outcome, paper: Mapping[tuple[str, str], float]) -> pd.DataFrame:
    """Both errors of each row and data set that have top-5 errors; see COLUMNS."""
    lines: list[dict[str, Any]] = []
    for line in outcome.frame.to_dict("records"):
        key = line["method"], line["dataset"]
        found = [e for r in outcome.records if (e := _top5(r, *key)) is not None]
        if not found:
            continue
        interval = mean_interval(found)
        lines.append(
            {
                **{name: line[name] for name in COLUMNS[:7]},
                "mean_top5_error": interval.mean,
                "top5_ci_low": interval.low,
                "top5_ci_high": interval.high,
                "paper_top5_error": paper.get(key, float("nan")),
            }
        )
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _top5(record: CellRecord, method: str, dataset: str) -> float | None:
    cell = record.cell
    own = (cell.method, cell.dataset, cell.purpose) == (method, dataset, "final")
    value = record.result.get("test_top5_error") if own and record.status == "finished" else None
    return None if value is None else float(value)


def _cells(line: Mapping[str, Any], labels: Mapping[str, str]) -> tuple[str, ...]:
    top5 = {"mean_error": line["mean_top5_error"], "ci_high": line["top5_ci_high"]}
    return (
        labels[line["method"]],
        error(line),
        error(top5),
        str(line["n_seeds"]),
        number(line["paper_error"], "{:.2f}"),
        number(line["paper_top5_error"], "{:.2f}"),
    )

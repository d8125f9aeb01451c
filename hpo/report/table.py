"""Tables from stored records: error with interval, comparison with the best Beta, cost.

Reads `CellRecord`s and nothing else; nothing here trains, and the test set selects nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from core.lazy import pandas as pd
from hpo.cells.record import CellRecord
from hpo.cells.summary import SummaryRow
from hpo.report.contrasts import paired
from hpo.report.families import adjusted_p
from hpo.report.markdown import to_markdown
from hpo.report.positive_control import best_of
from hpo.report.records import errors_by_seed, final_trainings, finished_finals
from hpo.report.statistics import mean_interval
from hpo.search.configured import setting
from hpo.storage.atomic import write_atomically, write_csv
from hpo.study.comparisons import NOTHING_DECLARED, Comparisons
from hpo.study.rows import Row

COLUMNS = (
    "dataset", "method", "setting", "n_seeds", "mean_error", "ci_low", "ci_high", "paper_error",
    "train_seconds", "samples_seen", "search_seconds", "search_samples", "mean_val_error",
    "n_failed", "diff_vs_best_beta", "diff_ci_low", "diff_ci_high", "p_value", "p_holm",
    "best_beta", "label", "family", "architecture",
)  # fmt: skip
"""Of the CSV, in this order. Errors and differences in percent, times in seconds."""

_DIGITS = {
    **dict.fromkeys(("mean_error", "ci_low", "ci_high", "mean_val_error"), 4),
    **dict.fromkeys(("median_error", "median_ci_low", "median_ci_high"), 4),
    **dict.fromkeys(("diff_vs_reference", "diff_vs_best_beta", "diff_ci_low", "diff_ci_high"), 4),
    **dict.fromkeys(("train_seconds", "search_seconds"), 3),
    **dict.fromkeys(("samples_seen", "search_samples"), 0),
}
_NAN = float("nan")
_COMPARED = ("diff_vs_best_beta", "diff_ci_low", "diff_ci_high", "p_value")


def build_table(
    records: Iterable[CellRecord],
    rows: Sequence[Row],
    datasets: Sequence[str],
    declared: Comparisons = NOTHING_DECLARED,
) -> pd.DataFrame:
    """Returns one row for each data set and method, in the order given; see COLUMNS.

    A method's error is the mean test error of its finished final cells, with a 95 % Student-t
    interval over seeds; what has no cells is there with ``n_seeds`` 0. ``train_seconds`` and
    ``samples_seen`` are the mean of one final training plus, as search, what the row needed before:
    all trials of its search, or the trainings that a frozen or a filtered row waits for. The best
    Beta of a data set is the row of family "none" or "beta" with the lowest mean meta-validation
    error, among those with the most finished seeds. The others are compared with it by a paired t
    test over the seeds that both have; p is adjusted by Holm's method over the comparisons of one
    data set, those with counterparts among them, but for those that stand alone: see `Comparisons`.
    In a study of several architectures all of this is so within each.

    Args:
        records: what became of the cells.
        rows, datasets: of the table.
        declared: by the study.

    Raises:
        ValueError: two final records have the same method, data set and seed.
    """
    records = list(records)
    _refuse_ambiguous(records)
    lines: list[dict[str, Any]] = []
    for dataset in datasets:
        here = [record for record in records if record.cell.dataset == dataset]
        entries = [_entry(row, dataset, here) for row in rows]
        errors = {row.key: errors_by_seed(here, row.key) for row in rows}
        for architecture in dict.fromkeys(row.architecture for row in rows):
            here_too = [e for e in entries if e["architecture"] == architecture]
            _compare(here_too, rows, errors, declared)
        lines += entries
    return pd.DataFrame(lines, columns=list(COLUMNS))


def summary_rows(
    frame: pd.DataFrame, further: Mapping[tuple[str, str], Mapping[str, float]] | None = None
) -> list[SummaryRow]:
    """Returns the rows of a table that have results, for `StudyTracker.summarise`.

    Args:
        frame: of `build_table`; numbers get as many digits as in the CSV.
        further: more numbers, by method and data set.
    """
    names = [field.name for field in fields(SummaryRow) if field.name in COLUMNS]
    more = further or {}
    return [
        SummaryRow(
            **{name: line[name] for name in names},
            further=more.get((line["method"], line["dataset"]), {}),
        )
        for line in frame.round(_DIGITS).to_dict("records")
        if line["n_seeds"] > 0
    ]


def write_report(
    output: Path, study: str, frame: pd.DataFrame, preamble: str = "", appendix: str = ""
) -> list[Path]:
    """Writes ``output/STUDY.csv`` and ``output/STUDY.md``, each whole or not at all.

    Args:
        output: the study's output folder; created if need be.
        study: name of the files, and heading of the Markdown.
        frame: of `build_table`.
        preamble: Markdown that says what was run, put below the heading.
        appendix: Markdown put after the table.

    Returns:
        The two paths.
    """
    csv, markdown = output / f"{study}.csv", output / f"{study}.md"
    write_csv(csv, frame.round(_DIGITS))
    parts = [f"# {study}", preamble, to_markdown(frame), appendix]
    write_atomically(markdown, "\n\n".join(part.strip() for part in parts if part) + "\n")
    return [csv, markdown]


def _refuse_ambiguous(records: Iterable[CellRecord]) -> None:
    seen: dict[tuple[str, str, int], str] = {}
    for record in records:
        cell = record.cell
        if cell.purpose != "final":
            continue
        other = seen.setdefault((cell.method, cell.dataset, cell.seed), cell.id)
        if other != cell.id:
            raise ValueError(
                f"two configurations of {cell.method} on {cell.dataset} with seed {cell.seed}: "
                f"{other} and {cell.id}; pass the records of one (load_records takes cell_ids)"
            )


def _entry(row: Row, dataset: str, records: Sequence[CellRecord]) -> dict[str, Any]:
    finals = final_trainings(records, row.key)
    finished = finished_finals(finals)
    trials = [
        record
        for record in records
        if record.cell.purpose == "search" and record.cell.method == row.search
    ]
    error = mean_interval([record.trained.test_error for record in finished])
    search_seconds, search_samples = (
        sum(float(getattr(trial.result, name)) for trial in trials)
        for name in ("train_seconds", "samples_seen")
    )
    for needed in filter(None, (row.draws_from, *row.needs)):
        sources = finished_finals(records, needed)
        search_seconds += _mean(sources, "train_seconds") if sources else 0
        search_samples += _mean(sources, "samples_seen") if sources else 0
    return {
        "dataset": dataset,
        "method": row.key,
        "setting": _setting(row, finals, trials),
        "n_seeds": error.n,
        "mean_error": error.mean,
        "ci_low": error.low,
        "ci_high": error.high,
        "paper_error": row.paper_error.get(dataset, _NAN),
        "train_seconds": _mean(finished, "train_seconds") + search_seconds,
        "samples_seen": _mean(finished, "samples_seen") + search_samples,
        "search_seconds": search_seconds,
        "search_samples": search_samples,
        "mean_val_error": _mean(finished, "val_error"),
        "n_failed": len(finals) - len(finished),
        **dict.fromkeys((*_COMPARED, "p_holm"), _NAN),
        "best_beta": False,
        "label": row.label,
        "family": row.family,
        "architecture": row.architecture,
    }


def _setting(row: Row, finals: Sequence[CellRecord], trials: Sequence[CellRecord]) -> str:
    """Returns the row's own setting; of a searched row what the search found, and from how much."""
    if not trials or not finals:
        return row.setting
    values = {
        name: sorted({setting(record.cell.training, name) for record in finals})
        for name in row.searched
    }
    best = ", ".join(f"{name}={'/'.join(f'{v:.3g}' for v in values[name])}" for name in values)
    return f"{best} (search of {_extent(trials)})"


def _extent(trials: Sequence[CellRecord]) -> str:
    """Returns how many settings a search tried, and by how many trainings where these are more."""
    tried = len({replace(record.cell.training, seed=0) for record in trials})
    trainings = "" if tried == len(trials) else f", {len(trials)} trainings"
    return f"{tried} trials{trainings}"


def _compare(
    entries: Sequence[dict[str, Any]],
    rows: Sequence[Row],
    errors: Mapping[str, Mapping[int, float]],
    declared: Comparisons,
) -> None:
    """Fills in the comparison with the best Beta of one data set and architecture."""
    best = best_of(entries, ["none", "beta"])
    if best is None:
        return
    reference = best["method"]
    p_holm = adjusted_p(entries, rows, errors, reference, declared)
    for entry in entries:
        entry["best_beta"] = entry is best
        if entry is not best:
            method = entry["method"]
            entry |= zip(_COMPARED, paired(errors[method], errors[reference]), strict=False)
            entry["p_holm"] = p_holm[frozenset((method, reference))]


def _mean(records: Sequence[CellRecord], name: str) -> float:
    values = [float(getattr(record.result, name)) for record in records]
    return math.fsum(values) / len(values) if values else _NAN

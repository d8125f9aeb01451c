"""The table of a semi-supervised study: two errors, two label budgets, one row as reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.lazy import pandas as pd
from core.training.config import TrainingConfig
from hpo.cells.record import CellRecord
from hpo.report.contrasts import paired
from hpo.report.families import adjusted_p
from hpo.report.records import errors_by_seed, final_trainings, finished_finals
from hpo.report.statistics import mean_interval
from hpo.report.table import COLUMNS as PLAIN
from hpo.study.comparisons import Comparisons
from hpo.study.rows import Row

_ERRORS = ("median_error", "median_ci_low", "median_ci_high")
_LABELS = ("labels", "labels_with_meta")
_COMPARISON = ("diff_vs_reference", "diff_ci_low", "diff_ci_high", "p_value", "p_holm", "reference")
_NAN = float("nan")


def _columns() -> tuple[str, ...]:
    columns: list[str] = []
    for name in PLAIN:
        if name == "diff_vs_best_beta":
            columns += _COMPARISON
        elif name not in _COMPARISON:
            columns.append(name)
        columns += _ERRORS if name == "ci_high" else _LABELS if name == "paper_error" else ()
    return tuple(columns)


COLUMNS = _columns()
"""Those of `hpo.report.table.COLUMNS` with the reference row in place of the best Beta, and
besides the median error and the label budget. Errors and differences in percent."""


def semi_table(
    frame: pd.DataFrame,
    rows: Sequence[Row],
    records: Sequence[CellRecord],
    declared: Comparisons,
) -> pd.DataFrame:
    """Returns the table with what semi-supervised studies report beside; see COLUMNS.

    ``median_error`` is the mean over seeds of the median test error of a training's last 20 epochs,
    with its 95 % interval. ``labels`` is the number of labelled images, ``labels_with_meta`` the
    meta-validation images besides where the row needs their labels: to learn λ, to train, or to
    choose its settings in a search. Rows are compared with the reference by a paired t test over
    the seeds that both have; p is adjusted by Holm's method over the comparisons of one data set,
    but for those that stand alone: see `Comparisons`. No row is the best Beta.

    Args:
        frame: of `hpo.report.table.build_table`.
        rows, records: those that it was made from.
        declared: by the study; its reference is the row that the others are compared with.
    """
    searched = {row.key for row in rows if row.search}
    lines: list[dict[str, Any]] = []
    for dataset in frame["dataset"].unique():
        here = final_trainings(records, dataset=dataset)
        entries = frame[frame["dataset"] == dataset].to_dict("records")
        for entry in entries:
            trainings = final_trainings(here, entry["method"])
            entry |= (
                _medians(trainings)
                | _budget(trainings, searched=entry["method"] in searched)
                | dict.fromkeys(_COMPARISON[:-1], _NAN)
            )
            entry |= {"reference": "", "best_beta": False}
        _compare(entries, rows, here, declared)
        lines += entries
    return pd.DataFrame(lines, columns=list(COLUMNS))


def summary_metrics(frame: pd.DataFrame) -> dict[tuple[str, str], dict[str, float]]:
    """Returns what the summary run of a (method, data set) gets of the columns that other studies
    have not.

    Args:
        frame: of `semi_table`, or of another study: nothing.
    """
    names = [name for name in (*_ERRORS, *_LABELS, *_COMPARISON[:-1]) if name in frame]
    if "reference" not in frame:
        return {}
    return {
        (line["method"], line["dataset"]): {name: float(line[name]) for name in names}
        for line in frame.to_dict("records")
    }


def _medians(records: Sequence[CellRecord]) -> dict[str, float]:
    errors = [r.trained.median_error for r in finished_finals(records)]
    median = mean_interval([_NAN if error is None else error for error in errors])
    return dict(zip(_ERRORS, median[:3], strict=True))


def _budget(records: Sequence[CellRecord], *, searched: bool) -> dict[str, float]:
    training = records[0].cell.training if records else None
    if training is None or training.semi is None:
        return dict.fromkeys(_LABELS, _NAN)
    labels = training.semi.labelled
    meta = training.meta_size if searched or needs_meta_labels(training) else 0
    return {"labels": labels, "labels_with_meta": labels + meta}


def needs_meta_labels(training: TrainingConfig) -> bool:
    """Returns whether a result rests on the labels of the meta-validation images: λ was learned
    from them, or drawn from what such a training ended with, or they were trained on."""
    return training.policy.needs_meta_labels or training.meta_in_training


def _compare(
    entries: Sequence[dict[str, Any]],
    rows: Sequence[Row],
    records: Sequence[CellRecord],
    declared: Comparisons,
) -> None:
    """Fills in the comparison of one data set's rows with the reference."""
    errors = {entry["method"]: errors_by_seed(records, entry["method"]) for entry in entries}
    reference = declared.reference
    if reference is None or not errors.get(reference):
        return
    p_holm = adjusted_p(entries, rows, errors, reference, declared)
    for entry in entries:
        method = entry["method"]
        if method != reference:
            contrast = paired(errors[method], errors[reference])
            numbers = (*contrast[:4], p_holm[frozenset((method, reference))])
            entry |= dict(zip(_COMPARISON, (*numbers, reference), strict=True))

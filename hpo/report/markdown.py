"""Tables for people: padded Markdown, which reads well in a terminal too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from core.lazy import pandas as pd

_HEADER = ("method", "error (%)", "n", "− best Beta †", "p", "p (Holm)", "cost", "samples", "paper")
_SEMI_HEADER = (
    "method", "error (%)", "median (%)", "n", "labels", "+ meta", "− reference ‡", "p", "p (Holm)",
    "cost", "samples", "paper",
)  # fmt: skip
"""Of tables with a reference row."""

_NONE = "–"


def to_markdown(frame: pd.DataFrame) -> str:
    """Returns the frame of `hpo.report.table.build_table` as one Markdown table for each data set,
    or in a study of several architectures for each of both, with notes; or that of
    `hpo.report.few_label_table.semi_table`.

    What has no value is a dash. The cost is the training time in units of the row of family
    "none".
    """
    parts: list[str] = []
    for (dataset, architecture), lines in tables_of(frame).items():
        parts += [f"## {dataset}" + (f", {architecture}" if architecture else ""), _table(lines)]
        parts += _remarks(lines)
    parts.append(_SEMI_LEGEND if "reference" in frame else _LEGEND)
    return "\n\n".join(parts)


def tables_of(frame: pd.DataFrame) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Returns the lines of each data set and architecture, in the order of the frame."""
    tables: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in frame.to_dict("records"):
        tables.setdefault((line["dataset"], line["architecture"]), []).append(line)
    return tables


def _table(lines: Sequence[Mapping[str, Any]]) -> str:
    of_unit = _unit(lines)
    unit = math.nan if of_unit is None else of_unit["train_seconds"]
    if "reference" in lines[0]:
        reference = _reference(lines)
        return padded_table(_SEMI_HEADER, [_semi_cells(line, unit, reference) for line in lines])
    return padded_table(_HEADER, [_cells(line, unit) for line in lines])


def _reference(lines: Sequence[Mapping[str, Any]]) -> str | None:
    """Returns the method that the others are compared with, of a table that has a reference row."""
    return next((line["reference"] for line in lines if line.get("reference")), None)


def _unit(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Returns the row in whose training time cost is told: of family "none", or else the
    reference."""
    plain = [line for line in lines if line["family"] == "none"]
    plain += [line for line in lines if line["method"] == _reference(lines)]
    return plain[0] if plain else None


def padded_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table whose columns are padded: the first to the left, the others to the
    right.

    Args:
        header: names of the columns.
        lines: cells of each line, as many as the header has; a bar in one is escaped.
    """
    cells = [
        [" ".join(text.split()).replace("|", r"\|") for text in row] for row in (header, *lines)
    ]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    text = [_join(row, widths) for row in cells]
    rule = [("-" * (width - 1) + ":") if i else "-" * width for i, width in enumerate(widths)]
    return "\n".join([text[0], "| " + " | ".join(rule) + " |", *text[1:]])


def _join(row: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        text.rjust(width) if column else text.ljust(width)
        for column, (text, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "| " + " | ".join(padded) + " |"


def _cells(line: Mapping[str, Any], unit: float) -> tuple[str, ...]:
    return (
        line["label"] + (" †" if line["best_beta"] else ""),
        error(line),
        str(line["n_seeds"]),
        difference(line["diff_vs_best_beta"], line["diff_ci_low"], line["diff_ci_high"]),
        *_last_cells(line, unit),
    )


def _last_cells(line: Mapping[str, Any], unit: float) -> tuple[str, ...]:
    """Returns what every table ends with: both p, cost and the paper's number."""
    return (
        probability(line["p_value"]),
        probability(line["p_holm"]),
        number(line["train_seconds"] / unit, "{:.2f}×"),
        _count(line["samples_seen"]),
        number(line["paper_error"], "{:.2f}"),
    )


def _semi_cells(line: Mapping[str, Any], unit: float, reference: str | None) -> tuple[str, ...]:
    mark = " ‡" if line["method"] == reference else ""
    return (
        line["label"] + mark,
        error(line),
        plus_minus(line["median_error"], line["median_ci_high"]),
        str(line["n_seeds"]),
        number(line["labels"], "{:.0f}"),
        number(line["labels_with_meta"], "{:.0f}"),
        difference(line["diff_vs_reference"], line["diff_ci_low"], line["diff_ci_high"]),
        *_last_cells(line, unit),
    )


def difference(value: float, low: float, high: float, digits: int = 2) -> str:
    """Returns a signed difference with its interval, such as "−0.20 [−0.51, +0.11]"; "–" for
    NaN."""
    interval = "" if math.isnan(low) else f" [{low:+.{digits}f}, {high:+.{digits}f}]"
    return (number(value, f"{{:+.{digits}f}}") + interval).replace("-", "−")


def probability(value: float) -> str:
    """Returns a p-value, such as "0.038"; "–" for NaN."""
    return "<0.001" if value < 0.001 else number(value, "{:.3f}")


def in_words(value: float, name: str = "p") -> str:
    """Returns a p-value in a sentence: "p = 0.038", "p < 0.001"; "no test" for NaN."""
    if math.isnan(value):
        return "no test"
    text = probability(value)
    return f"{name} {text[0]} {text[1:]}" if text.startswith("<") else f"{name} = {text}"


def adjusted(value: float) -> str:
    """Returns a p-value adjusted by Holm's method, in a sentence."""
    return in_words(value, "p (Holm)")


def number(value: float, template: str, missing: str = _NONE) -> str:
    """Returns the value in a format such as "{:.2f}"; `missing` for NaN."""
    return missing if math.isnan(value) else template.format(value)


def error(line: Mapping[str, Any]) -> str:
    """Returns mean_error of a report's line with half the width of its interval."""
    return plus_minus(line["mean_error"], line["ci_high"])


def plus_minus(mean: float, high: float, form: str = ".2f") -> str:
    """Returns a mean with half the width of the interval that ends at ``high``, such as "7.20 ±
    0.41"; "–" for NaN."""
    return number(mean, f"{{:{form}}}") + number(high - mean, f" ± {{:{form}}}", missing="")


def _count(value: float) -> str:
    if math.isnan(value):
        return _NONE
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            return f"{_three_digits(value / size)}{unit}"
    return f"{value:.0f}"


def _three_digits(value: float) -> str:
    """Returns the value in three digits, or more where it is larger, and without an exponent."""
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def _remarks(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Says the unit of cost, what searches found, and what is missing, of one data set's table."""
    remarks = []
    unit = _unit(lines)
    if unit is not None and unit["n_seeds"] > 0:
        remarks.append(f"- 1.00× is {_three_digits(unit['train_seconds'])} s of training.")
    remarks += [
        f"- {line['label']}: {line['setting']}."
        for line in lines
        if line["search_samples"] > 0 and line["n_seeds"] > 0
    ]
    complete = max(line["n_seeds"] + line["n_failed"] for line in lines)
    for line in lines:
        missing = complete - line["n_seeds"] - line["n_failed"]
        counts = [(line["n_failed"], "failed"), (missing, "missing")]
        said = " and ".join(f"{count} {what}" for count, what in counts if count)
        if said:
            remarks.append(f"- {line['label']}: of {complete} trainings {said}.")
    remarks += _verdicts(lines)
    return ["\n".join(remarks)] if remarks else []


def _verdicts(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Says which rows have fewer errors than the reference row, and which have not."""
    reference = _reference(lines)
    name = next((line["label"] for line in lines if line["method"] == reference), None)
    compared = [
        line
        for line in lines
        if not math.isnan(line.get("diff_vs_reference", math.nan))
        and line["family"] not in ("placebo", "frozen")
    ]
    if name is None or not compared:
        return []
    below = [line["label"] for line in compared if line["diff_vs_reference"] < 0]
    sure = [
        line["label"]
        for line in compared
        if line["diff_vs_reference"] < 0 and line["p_holm"] < 0.05
    ]
    above = [line["label"] for line in compared if line["label"] not in below]
    return [
        f"- Mean error below that of {name}: {', '.join(below) or 'none'}.",
        f"- Of these with p (Holm) < 0.05: {', '.join(sure) or 'none'}.",
        f"- Not better than {name}: {', '.join(above) or 'none'}.",
    ]


_LEGEND = (
    "- error: mean over n seeds of the test error after the last epoch, ± half the width of its "
    "95 % Student-t interval.\n"
    "- † best Beta: of no mixing and the rows that draw λ from a Beta distribution the one with "
    "the lowest mean error on the meta-validation images; the test set selects nothing. The "
    "column is the mean difference to it over the seeds that both have (negative: fewer errors), "
    "with 95 % interval; p of the paired t test, then adjusted by Holm's method for the "
    "comparisons of one table. Alone, and not adjusted, stand primary comparisons, the "
    "positive control, placebos and frozen rows.\n"
    "- cost: training time, evaluation not counted. samples: samples sent forward in training, "
    "virtual and validation passes counted. Both are the mean of one training, plus the whole "
    "search where one was needed; of a frozen row plus the training whose λ it draws."
)


_SEMI_LEGEND = (
    "- error: mean over n seeds of the test error after the last epoch, ± half the width of its "
    "95 % Student-t interval. median: the same of the median over a training's last 20 epochs "
    "(all of a shorter one); of fewer than 100 epochs these are no end of a training that has "
    "settled, and the median says less than the error. Where a method keeps a moving average of "
    "the weights, that is what is evaluated. The test set selects nothing.\n"
    "- labels: labelled training images. + meta: with the meta-validation images whose labels the"
    " row uses besides: to learn λ, to train, or to choose settings in a search.\n"
    "- ‡ reference: the column is the mean difference of the error after the last epoch to it "
    "over the seeds that both have (negative: fewer errors), with 95 % interval; p of the paired "
    "t test, then adjusted by Holm's method for the comparisons of one data set. Alone, and not "
    "adjusted, stand primary comparisons, the positive control, placebos and frozen rows.\n"
    "- cost: training time, evaluation not counted. samples: samples sent forward in training, "
    "all passes counted. Both are the mean of one training, plus the whole search where one was "
    "needed; of a frozen row plus the training whose λ it draws."
)

"""Can this setting tell policies apart? A report says so before anything else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from core.lazy import pandas as pd
from hpo.cells.record import CellRecord
from hpo.report.contrasts import LEVEL, detectable, paired
from hpo.report.markdown import difference, in_words, tables_of
from hpo.report.outcome import Extra, Outcome
from hpo.report.records import errors_by_seed
from hpo.report.statistics import lowest
from hpo.search.protocol import SEARCH_METHOD
from hpo.storage.atomic import write_csv
from hpo.study.comparisons import BEST_BETA, Comparisons

COLUMNS = (
    "dataset", "architecture", "comparison", "method", "other", "n_seeds", "difference", "ci_low",
    "ci_high", "p_value", "detectable",
)  # fmt: skip
"""Of the CSV. Differences in percent; `detectable` is the true one that so many seeds, spread as
they are, would have shown at p < 0.05 with a chance of 80 %."""

_HEADING = "## Can this setting answer?"

_MEANS = ("mean_error", "mean_val_error")

_ROUNDING = 1e-6
"""Of an error in percent."""

_ABSENT, _UNTESTED = "does not show", "cannot be tested with these seeds"

_ANSWERS = {
    "": "Yes",
    _ABSENT: "No: what is known to help does not show here, so that rows which do not differ say "
    "nothing",
    _UNTESTED: f"It {_UNTESTED}",
}
"""Of a positive control, by what is wrong with it."""

POSITIVE, PRIMARY = "positive control", "primary"
"""The comparisons; see `hpo.study.comparisons.Comparisons`."""


def best_of(
    lines: Iterable[Mapping[str, Any]], families: Sequence[str]
) -> Mapping[str, Any] | None:
    """Returns of a table's lines of these families the one with the lowest mean error on the
    meta-validation images; see `lowest`."""
    there = [line for line in lines if line["family"] in families]
    return lowest(there, lambda line: line["mean_val_error"])


def positive_pair(
    lines: Sequence[Mapping[str, Any]], declared: Comparisons
) -> tuple[str, str] | None:
    """Returns the keys of the positive control's two rows, of one data set and architecture; None
    where one of them has no result."""
    if declared.positive is not None:
        ended = {line["method"] for line in lines if line["n_seeds"] > 0}
        return declared.positive if ended.issuperset(declared.positive) else None
    if declared.reference is not None:
        return None
    plain = best_of(lines, ["none"])
    # A search may find that α = 0 is best, and its row is the same trainings.
    same = [plain and plain[name] for name in _MEANS]
    others = [
        line
        for line in lines
        if not line["method"].startswith(SEARCH_METHOD) or [line[n] for n in _MEANS] != same
    ]
    mixed = best_of(others, ["beta"])
    return None if mixed is None or plain is None else (mixed["method"], plain["method"])


def positive_control(outcome: Outcome) -> Extra:
    """Returns what stands before the table: whether the setting can answer, and how much its seeds
    could have shown; and which trainings ended no better than a guess. Writes `STUDY-setting.csv`;
    empty where no such comparison is there, and no such training."""
    frame = settings_table(outcome.frame, outcome.records, outcome.plan.comparisons)
    guessing = _no_better_than_a_guess(outcome)
    if frame.empty:
        outcome.no_file("setting.csv")
        return Extra("\n".join([_HEADING, "", *guessing]) if guessing else "")
    path = write_csv(outcome.file("setting.csv"), frame, "%.4g")
    return Extra("\n".join([settings_markdown(frame, outcome.labels), *guessing]), [path])


def settings_table(
    frame: pd.DataFrame, records: Sequence[CellRecord], declared: Comparisons
) -> pd.DataFrame:
    """Returns the positive control and the primary comparisons of each data set and architecture;
    see COLUMNS. A difference is that of the test error of `method` to that of `other` over the
    seeds that both have, with its 95 % interval and the p of the paired t test.

    Args:
        frame: of `hpo.report.table.build_table`.
        records: those that it was made from.
        declared: by the study.
    """
    compared = []
    for (dataset, architecture), lines in tables_of(frame).items():
        pairs = [(POSITIVE, positive_pair(lines, declared))]
        for comparison, pair in [*pairs, *((PRIMARY, pair) for pair in declared.primary)]:
            if pair is None:
                continue
            method, other = pair
            if other == BEST_BETA:
                other = next((line["method"] for line in lines if line["best_beta"]), other)
            errors = [errors_by_seed(records, key, dataset) for key in (method, other)]
            contrast = paired(*errors)
            if contrast.n:
                numbers = (contrast.n, *contrast[:4], detectable(*errors))
                compared.append((dataset, architecture, comparison, method, other, *numbers))
    return pd.DataFrame(compared, columns=list(COLUMNS))


def doubt(frame: pd.DataFrame, dataset: str, architecture: str) -> str:
    """Returns what is wrong with the positive control of a data set and architecture, "" where it
    was found; and where there is none, as nothing is known against the setting.

    Args:
        frame: of `settings_table`.
        dataset, architecture: of the table that is asked about.
    """
    here = frame[(frame["dataset"] == dataset) & (frame["architecture"] == architecture)]
    controls = here[here["comparison"] == POSITIVE].to_dict("records")
    return next(filter(None, map(_doubt_of, controls)), "")


def settings_markdown(frame: pd.DataFrame, labels: Mapping[str, str]) -> str:
    """Returns the lines of `settings_table` for people.

    Args:
        frame: of `settings_table`, not empty.
        labels: of the rows, by key.
    """
    text = []
    for line in frame.to_dict("records"):
        where = " ".join(filter(None, [line["dataset"], line["architecture"]]))
        shown = difference(line["difference"], line["ci_low"], line["ci_high"])
        said = (
            f"{labels[line['method']]} − {labels[line['other']]}: {shown}, "
            f"{in_words(line['p_value'])}, n = {line['n_seeds']}"
        )
        least = float(f"{line['detectable']:.2g}")
        power = f"So many seeds show a difference of {least:g} with 80 % power"
        if math.isnan(line["detectable"]):
            power = "Without spread it is not known what so many seeds show"
        if line["comparison"] == POSITIVE:
            power = f"{_ANSWERS[_doubt_of(line)]}. {power}"
        comparison = POSITIVE if line["comparison"] == POSITIVE else "primary comparison"
        text.append(f"- {where}, {comparison}: {said}. {power}.")
    return "\n".join([_HEADING, "", *text])


def _doubt_of(control: Mapping[str, Any]) -> str:
    if math.isnan(control["p_value"]):
        return _UNTESTED
    found = control["difference"] < 0 and control["p_value"] < LEVEL
    return "" if found else _ABSENT


def _no_better_than_a_guess(outcome: Outcome) -> list[str]:
    """Returns a line for each row with trainings that ended at the error of a network that always
    gives the same class, or above: they never started, or broke down on the way."""
    lines = []
    for dataset, training in outcome.plan.base.items():
        labels = outcome.source_of(training).test_labels
        guess = 100 * (1 - np.bincount(labels).max() / len(labels))
        for row in outcome.plan.rows:
            errors = errors_by_seed(outcome.records, row.row.key, dataset).values()
            lost = sum(error >= guess - _ROUNDING for error in errors)
            if lost:
                lines.append(
                    f"- {dataset}: {lost} of {len(errors)} trainings of {row.row.label} ended no "
                    f"better than a guess ({guess:.2f} %); a lower --lr or a longer "
                    "--warmup-epochs may help."
                )
    return lines

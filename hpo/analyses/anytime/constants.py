"""What learns α in one training, against a search that tries the constant α of a table by turns.

The table has trained them anyway, so this trains nothing. Of k constants that were tried, the
search takes the one with the lowest meta-validation error, of equals the one with the lowest
meta-validation loss. Which come first is chance: its error is the mean over all choices of k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING

from core.lazy import pandas as pd
from core.training.result import TrainingResult
from hpo.report.contrasts import paired
from hpo.report.figure_files import drawn
from hpo.report.markdown import difference, padded_table, probability
from hpo.report.outcome import Extra, Outcome
from hpo.report.statistics import mean_interval
from hpo.report.style import COLORS, WIDTH, canvas, short_name
from hpo.study.rows import StudyRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = (
    "dataset", "method", "label", "trainings", "n_seeds", "error", "ci_low", "ci_high",
    "search_error", "difference", "diff_ci_low", "diff_ci_high", "p_value",
)  # fmt: skip
"""Errors in percent; `difference` is that of the row minus that of the search."""


def constants_tried(outcome: Outcome) -> Extra:
    """Writes `STUDY-tried.csv` and `.png`, and says how the rows that learn stand against a search
    that has tried 1, 2, ... of the constants.

    Empty where there are not two constants, or nothing that learns.
    """
    frame = tried_table(outcome)
    if frame.empty:
        return Extra()
    csv, picture = drawn(outcome, "tried", frame, _figure(frame), "%.6g")
    lines = [
        (
            short_name(line["dataset"]),
            line["label"],
            str(line["trainings"]),
            str(line["n_seeds"]),
            f"{line['search_error']:.2f}",
            difference(line["difference"], line["diff_ci_low"], line["diff_ci_high"]),
            probability(line["p_value"]),
        )
        for line in frame.to_dict("records")
    ]
    header = (
        "data set", "row", "constants tried", "n", "error of the search", "row − search", "p",
    )  # fmt: skip
    notes = [
        "- The search takes the constant with the lowest meta-validation error of those tried, in "
        "random order; the difference is paired over seeds, with 95 % interval, each by itself."
    ]
    for dataset in frame["dataset"].unique():
        left_out = constants_of(outcome, dataset)[1]
        if left_out:
            notes.append(
                f"- Left out on {short_name(dataset)}, as they lack seeds that other constants "
                f"have: {', '.join(row.row.label for row in left_out)}."
            )
    text = f"## Against constants tried one after another\n\n![errors]({picture.name})\n\n"
    table = padded_table(header, lines)
    return Extra(text + "\n\n".join([table, "\n".join(notes)]) + "\n", [csv, picture])


def tried_table(outcome: Outcome) -> pd.DataFrame:
    """Returns a line for each data set, row that learns, and number of constants tried; see
    COLUMNS."""
    learned = [r for r in outcome.plan.rows if r.policy is not None and r.row.family == "learned"]
    lines = [
        line
        for dataset in outcome.plan.datasets
        for constants in [constants_of(outcome, dataset)[0]]
        for row in learned
        for line in _lines(outcome, dataset, row, constants)
    ]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def constants_of(outcome: Outcome, dataset: str) -> tuple[list[StudyRow], list[StudyRow]]:
    """Returns the constants that a search tries on a data set, and those that are left out.

    One that lacks seeds, as it diverges, would cost all others these seeds. It is tried only where
    there are not two without it.
    """
    seeds = {
        row.row.key: outcome.results(dataset, row).keys()
        for row in outcome.plan.rows
        if row.policy is not None and row.row.family in ("none", "beta")
    }
    there = [row for row in outcome.plan.rows if seeds.get(row.row.key)]
    most = max((len(seeds[row.row.key]) for row in there), default=0)
    complete = [row for row in there if len(seeds[row.row.key]) == most]
    if len(complete) < 2:
        return there, []
    return complete, [row for row in there if row not in complete]


def _lines(
    outcome: Outcome, dataset: str, row: StudyRow, constants: Sequence[StudyRow]
) -> Sequence[tuple[object, ...]]:
    by_row = [outcome.results(dataset, constant) for constant in constants]
    mine = outcome.results(dataset, row)
    seeds = [s for s in mine if all(s in results for results in by_row)]
    if len(by_row) < 2 or not seeds:
        return []
    errors = {seed: mine[seed].test_error for seed in seeds}
    learned, lines = mean_interval(list(errors.values())), []
    for k in range(1, len(by_row) + 1):
        taken = {seed: search_error([results[seed] for results in by_row], k) for seed in seeds}
        at = paired(errors, taken)
        numbers = (k, at.n, *learned[:3], fmean(taken.values()), *at[:4])
        lines.append((dataset, row.row.key, row.row.label, *numbers))
    return lines


def search_error(trained: Sequence[TrainingResult], k: int) -> float:
    """Returns the mean test error, in percent, of what is taken of k of these trainings, over all
    choices of k."""
    taken = [min(some, key=_judged) for some in combinations(trained, k)]
    return fmean(result.test_error for result in taken)


def _judged(result: TrainingResult) -> tuple[float, float]:
    last: Mapping[str, float] = result.history[-1] if result.history else {}
    return result.val_error, last.get("val_loss", 0.0)


def _figure(frame: pd.DataFrame) -> Figure:
    datasets = list(frame["dataset"].unique())
    figure = canvas(WIDTH, 3.6 * len(datasets))
    axes = figure.subplots(len(datasets), 1, squeeze=False)
    for (ax,), dataset in zip(axes, datasets, strict=True):
        here = frame[frame["dataset"] == dataset]
        search = here.drop_duplicates("trainings")
        ax.plot(search["trainings"], search["search_error"], "ko-", lw=1.8, label="search")
        for at, (_, line) in enumerate(here.drop_duplicates("method").iterrows()):
            color, beside = COLORS[at % len(COLORS)], 1.1 + 0.06 * at
            bar = [[line["error"] - line["ci_low"]], [line["ci_high"] - line["error"]]]
            ax.axhline(line["error"], color=color, lw=1.0, alpha=0.6)
            ax.errorbar(
                beside, line["error"], yerr=bar, fmt="o", capsize=2, color=color,
                label=line["label"],
            )  # fmt: skip
        ax.set(xlabel="constants tried", ylabel="test error (%)")
        ax.set_xticks(list(search["trainings"]))
        ax.set_title(short_name(dataset), loc="left")
        ax.legend(frameon=False, fontsize=8)
        ax.grid(lw=0.4, alpha=0.5)
    return figure

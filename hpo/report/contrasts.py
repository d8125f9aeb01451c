"""This module has what figures share: the results of a row, intervals over seeds, files.

Each figure is a function of an `Outcome` that gives an `Extra`: it reads what the study's cells
have stored and writes STUDY.png, its data as STUDY.csv, and what is to be said of it as STUDY.md.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from core.lazy import pandas as pd
from hpo.report.markdown import adjusted, padded_table
from hpo.report.outcome import Extra, Outcome
from hpo.report.statistics import (
    MeanInterval,
    PairedComparison,
    holm,
    mean_interval,
    paired_comparison,
)
from hpo.report.style import save_figure
from hpo.storage.atomic import write_atomically, write_csv
from hpo.study.rows import StudyRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Values = Mapping[int, float]
"""By seed."""

Key = TypeVar("Key", bound=Hashable)

LEVEL = 0.05
"""A difference whose adjusted p is below it is told apart from none."""

HOLM = (
    "- differences are paired over seeds, with 95 % interval; p of the t test, adjusted by Holm's "
    "method for all the differences told here of one data set."
)
"""What a text says of its differences."""

_INTERVAL = ("n_seeds", "mean", "ci_low", "ci_high")


@dataclass(frozen=True)
class Contrast:
    """A difference of two rows, and its p adjusted for the comparisons it was made with."""

    paired: PairedComparison
    p_holm: float

    @property
    def direction(self) -> int:
        """Returns 1 for a difference above 0, −1 for one below, 0 where it is not told apart from
        0."""
        return int(np.sign(self.paired.difference)) if self.p_holm < LEVEL else 0

    def text(self, digits: int = 3) -> str:
        """Returns the difference with interval, p and n, for people."""
        paired = self.paired
        if paired.n == 0:
            return "no seed in common"
        text = f"{paired.difference:+.{digits}f}"
        if paired.n > 1:
            text += f" [{paired.low:+.{digits}f}, {paired.high:+.{digits}f}]"
        return f"{text.replace('-', '−')}, {adjusted(self.p_holm)}, n = {paired.n}"


def row_line(dataset: str, row: StudyRow, **columns: Any) -> dict[str, Any]:
    """Returns a line of a CSV about a row on a data set, with these columns more."""
    return {"dataset": dataset, "method": row.row.key, "label": row.row.label, **columns}


def mean_line(
    dataset: str, row: StudyRow, values: Iterable[float], **columns: Any
) -> dict[str, Any]:
    """Returns `row_line` with the mean of the values and its 95 % interval at its end."""
    interval = interval_columns(mean_interval(list(values)))
    return row_line(dataset, row, **columns) | interval


def interval_columns(interval: MeanInterval) -> dict[str, float]:
    """Returns an interval as columns of a CSV."""
    return dict(zip(_INTERVAL, (interval.n, *interval[:3]), strict=True))


def mean_table(
    outcome: Outcome,
    means: Callable[[str, StudyRow], Iterable[tuple[Iterable[float], Mapping[str, Any]]]],
    *columns: str,
) -> pd.DataFrame:
    """Returns `mean_line` of all data sets and rows as a table.

    Args:
        outcome: of the study.
        means: of a data set and a row the values of each mean, and its columns.
        columns: their names.
    """
    lines = [
        mean_line(dataset, row, values, **own)
        for dataset in outcome.plan.datasets
        for row in outcome.plan.rows
        for values, own in means(dataset, row)
    ]
    return interval_table(lines, *columns)


def interval_table(lines: Iterable[Mapping[str, Any]], *columns: str) -> pd.DataFrame:
    """Returns lines of `mean_line` with these columns of their own, as a table."""
    names = ["dataset", "method", "label", *columns, *_INTERVAL]
    return pd.DataFrame(list(lines), columns=names)


def interval_text(interval: MeanInterval, digits: int = 3) -> str:
    """Returns an interval for people."""
    if interval.n == 0:
        return "–"
    half = interval.high - interval.mean
    return f"{interval.mean:.{digits}f}" + ("" if half != half else f" ± {half:.{digits}f}")


def mean_text(values: Iterable[float], digits: int = 3) -> str:
    """Returns the mean of these with its 95 % interval, for people."""
    return interval_text(mean_interval(list(values)), digits)


def paired(first: Values, second: Values) -> PairedComparison:
    """Returns first − second over the seeds that both have."""
    shared = sorted(first.keys() & second.keys())
    return paired_comparison([first[s] for s in shared], [second[s] for s in shared])


def contrasts(pairs: Mapping[Key, tuple[Values, Values]]) -> dict[Key, Contrast]:
    """Returns each first − second over the seeds that both have; one family of comparisons."""
    comparisons = {key: paired(*values) for key, values in pairs.items()}
    p_holm = family({key: comparison.p_value for key, comparison in comparisons.items()})
    return {key: Contrast(comparison, p_holm[key]) for key, comparison in comparisons.items()}


def family(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Returns each p adjusted by Holm's method for all of them."""
    return dict(zip(p_values, holm(list(p_values.values())), strict=True))


def verdict(directions: Sequence[int]) -> str:
    """Returns what these comparisons say of a claim; each is 1 (as it says), −1 (the other way
    round) or 0 (not told apart)."""
    if min(directions) < 0:
        if max(directions) > 0:
            return "holds for one and not the other"
        return "is contradicted" if max(directions) < 0 else "is contradicted by one"
    if min(directions) > 0:
        return "holds"
    return "holds for one" if max(directions) > 0 else "is not supported"


def seeds_of(frame: pd.DataFrame, what: str) -> str:
    """Returns what a picture says of its seeds: how many there are, and what its intervals are.

    Args:
        frame: the figure's data, with a column n_seeds.
        what: that shows the intervals, such as "bands".
    """
    counts = [int(n) for n in sorted(frame["n_seeds"].unique()) if n > 0]
    if not counts:
        return "no seed has ended"
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    if counts == [1]:
        return "one seed, no interval"
    return f"means over {n} seeds, {what}: 95 % intervals"


def figure_text(
    outcome: Outcome,
    title: str,
    said: Callable[[str], tuple[Sequence[str], Sequence[Sequence[str]], Iterable[str]]],
    note: str,
) -> str:
    """Returns what is said of a figure: of each data set a table and what it shows, then a note.

    Args:
        outcome: of the study.
        title: of the whole.
        said: of a data set the table's header, its lines, and items of a list.
        note: what is true of all data sets.
    """
    parts = [f"## {title}"]
    for dataset in outcome.plan.datasets:
        header, lines, items = said(dataset)
        parts += [f"{dataset}:", padded_table(header, lines), "\n".join(items)]
    return "\n\n".join(part for part in [*parts, note] if part)


def written(outcome: Outcome, frame: pd.DataFrame, figure: Figure, markdown: str) -> Extra:
    """Writes a study's figure, its data (six digits) and its text.

    Args:
        outcome: of the study; its name is that of the files.
        frame: the data, everything that the figure shows.
        figure: to be saved as PNG.
        markdown: what is to be said of it; also printed, and part of the study's report.
    """
    stem = outcome.output / outcome.plan.study
    csv, picture, text = (stem.with_name(f"{stem.name}.{kind}") for kind in ("csv", "png", "md"))
    write_csv(csv, frame, "%.6g")
    save_figure(figure, picture)
    write_atomically(
        text, f"# {stem.name}\n\n![{stem.name}]({picture.name})\n\n{markdown.strip()}\n"
    )
    return Extra(markdown, [csv, picture, text])

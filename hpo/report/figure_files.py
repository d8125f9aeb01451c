"""The files of a figure: its picture, the data that it shows, and what is to be said of it.

A study that is a figure has a function of an `Outcome` that gives an `Extra`: it reads what the
study's cells have stored and writes STUDY.png, its data as STUDY.csv, and its text as STUDY.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.lazy import pandas as pd
from hpo.report.markdown import padded_table
from hpo.report.outcome import Extra, Outcome
from hpo.report.statistics import mean_interval
from hpo.report.style import save_figure
from hpo.storage.atomic import write_atomically, write_csv
from hpo.study.rows import StudyRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REFERENCE = "beta-1"
"""Key of the row that figures hold the others against: MixUp, which learns nothing."""

_INTERVAL = ("n_seeds", "mean", "ci_low", "ci_high")


def row_line(dataset: str, row: StudyRow, **columns: Any) -> dict[str, Any]:
    """Returns a line of a CSV about a row on a data set, with these columns more."""
    return {"dataset": dataset, "method": row.row.key, "label": row.row.label, **columns}


def mean_line(
    dataset: str, row: StudyRow, values: Iterable[float], **columns: Any
) -> dict[str, Any]:
    """Returns `row_line` with the mean of the values and its 95 % interval at its end."""
    return row_line(dataset, row, **columns) | interval_columns(values)


def interval_columns(values: Iterable[float]) -> dict[str, float]:
    """Returns the mean of the values and its 95 % interval as columns of a CSV."""
    interval = mean_interval(list(values))
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


def drawn(
    outcome: Outcome,
    name: str,
    frame: pd.DataFrame,
    figure: Figure,
    float_format: str | None = None,
) -> tuple[Path, Path]:
    """Writes a part of a study's report, STUDY-NAME.csv and its picture STUDY-NAME.png, and returns
    both paths."""
    csv, picture = (outcome.file(f"{name}.{kind}") for kind in ("csv", "png"))
    return write_csv(csv, frame, float_format), save_figure(figure, picture)


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

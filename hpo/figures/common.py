"""What the paper's figures share: the results of a row, intervals over seeds, files, styles.

Each figure is a function of an `Outcome` that gives an `Extra`: it reads what the study's cells
have stored and writes STUDY.png, its data as STUDY.csv, and what is to be said of it as STUDY.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hpo.cells import write_atomically
from hpo.markdown import probability
from hpo.outcome import Extra, Outcome
from hpo.plan import StudyRow
from hpo.plots import save_figure
from hpo.statistics import MeanInterval, mean_interval, paired_comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = dict[int, Mapping[str, Any]]
"""By seed what the finished training of a row and data set gave."""

Values = Mapping[int, float]
"""By seed."""

COLOURS: Sequence[str] = (
    "#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F",
)  # fmt: skip
"""Okabe and Ito's palette, safe for the colour-blind. Rows differ in marker and dashes too."""
MARKERS = "sDovP^X*"
DASHES = ("-", "--", "-.", ":")


def results_of(outcome: Outcome, dataset: str, row: StudyRow) -> Results:
    """What the finished final cells of a row on a data set gave."""
    return {
        record.cell.seed: record.result
        for record in outcome.records
        if (record.cell.dataset, record.cell.method) == (dataset, row.row.key)
        and record.cell.purpose == "final"
        and record.status == "finished"
    }


def intervals(series: Iterable[Sequence[float]]) -> list[MeanInterval]:
    """Mean and 95 % interval over seeds of each of several equally long series, one a seed."""
    columns = zip(*series, strict=True)
    return [mean_interval(values) for values in columns]


def table_line(interval: MeanInterval) -> dict[str, float]:
    """An interval as columns of a CSV."""
    return {
        "n_seeds": interval.n,
        "mean": interval.mean,
        "ci_low": interval.low,
        "ci_high": interval.high,
    }


def told(interval: MeanInterval, digits: int = 3) -> str:
    """An interval for people."""
    if interval.n == 0:
        return "–"
    half = interval.high - interval.mean
    return f"{interval.mean:.{digits}f}" + ("" if half != half else f" ± {half:.{digits}f}")


def compared(first: Values, second: Values, digits: int = 3) -> str:
    """Mean difference first − second over the seeds that both have, with interval and p."""
    shared = sorted(first.keys() & second.keys())
    found = paired_comparison([first[s] for s in shared], [second[s] for s in shared])
    if found.n == 0:
        return "no seed in common"
    text = f"{found.difference:+.{digits}f}"
    if found.n > 1:
        text += f" [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
    return f"{text.replace('-', '−')}, p = {probability(found.p_value)}, n = {found.n}"


def differs(first: Values, second: Values) -> int:
    """1 if first is larger than second at p < 0.05 of the paired t test, −1 if smaller, else 0."""
    shared = sorted(first.keys() & second.keys())
    found = paired_comparison([first[s] for s in shared], [second[s] for s in shared])
    return int(np.sign(found.difference)) if found.p_value < 0.05 else 0


def canvas(width: float, height: float) -> Figure:
    """An empty figure of so many inches, laid out so that nothing is cut off."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def written(outcome: Outcome, frame: pd.DataFrame, figure: Figure, markdown: str) -> Extra:
    """Write a study's figure, its data (six digits) and its text.

    Args:
        outcome: of the study; its name is that of the files.
        frame: the data, everything that the figure shows.
        figure: to be saved as PNG.
        markdown: what is to be said of it; also printed, and part of the study's report.
    """
    stem = outcome.output / outcome.plan.study
    csv, picture, text = (stem.with_name(f"{stem.name}.{kind}") for kind in ("csv", "png", "md"))
    csv.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(csv, frame.to_csv(index=False, lineterminator="\n", float_format="%.6g"))
    save_figure(figure, picture)
    write_atomically(
        text, f"# {stem.name}\n\n![{stem.name}]({picture.name})\n\n{markdown.strip()}\n"
    )
    return Extra(markdown, [csv, picture, text])

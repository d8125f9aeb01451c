"""Figure 6: relative frequency of λ, MetaMixUp beside MixUp."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from core.lazy import pandas as pd
from hpo.report.contrasts import contrasts, mean_text
from hpo.report.figure_files import REFERENCE, figure_text, mean_table, seeds_of, written
from hpo.report.outcome import Extra, Outcome
from hpo.report.records import Results
from hpo.report.statistics import MeanInterval, mean_interval
from hpo.report.style import COLORS, WIDTH, canvas, legend_below, short_name
from hpo.study.rows import StudyRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

END = 0.1
"""λ within it of 0 or 1 is near."""

_EPOCHS = {"first": "lam_histogram_first", "last": "lam_histogram"}


def lambda_frequency(outcome: Outcome) -> Extra:
    """Draws the figure: of each row but the reference a panel, the reference beside it."""
    frame = frequency_table(outcome)
    return written(outcome, frame, frequency_figure(frame), _text(outcome))


def frequency_table(outcome: Outcome) -> pd.DataFrame:
    """Returns a line for each data set, row, epoch (first, last) and bin: part of λ (percent).

    Mean over seeds with 95 % interval; `beta_1` is the part that Beta(1, 1) has in every bin.
    """

    def means(dataset: str, row: StudyRow) -> Iterator[tuple[Sequence[float], dict[str, Any]]]:
        results = outcome.results(dataset, row)
        for epoch, name in _EPOCHS.items():
            parts = [_frequencies(getattr(result, name)) for result in results.values()]
            for at, values in enumerate(zip(*parts, strict=True)):
                bins = len(parts[0])
                edges = {"low": at / bins, "high": (at + 1) / bins, "beta_1": 100 / bins}
                yield values, {"epoch": epoch, **edges}

    return mean_table(outcome, means, "epoch", "low", "high", "beta_1")


def frequency_figure(frame: pd.DataFrame) -> Figure:
    """Draws bars of the last epoch, a dashed line of the first; MixUp drawn and exact.

    Args:
        frame: of `frequency_table`, not empty.
    """
    datasets = list(frame["dataset"].unique())
    methods = [m for m in frame["method"].unique() if m != REFERENCE] or [REFERENCE]
    figure = canvas(WIDTH, 3.3 * len(datasets) + 0.5)
    axes = figure.subplots(len(datasets), len(methods), squeeze=False)
    for row, dataset in zip(axes, datasets, strict=True):
        for ax, method in zip(row, methods, strict=True):
            here = frame[frame["dataset"] == dataset]
            _draw(ax, here[here["method"] == method], here[here["method"] == REFERENCE])
            ax.set_xlabel("λ")
        row[0].set_ylabel(f"{short_name(dataset)}\nrelative frequency (%)")
    legend_below(figure, axes.flat, 4, seeds_of(frame, "bars"))
    return figure


def _draw(ax: Axes, learned: pd.DataFrame, reference: pd.DataFrame) -> None:
    blue, red = COLORS[0], COLORS[1]
    last, first = (learned[learned["epoch"] == epoch] for epoch in ("last", "first"))
    for part, colour, label, shift in (
        (reference[reference["epoch"] == "last"], red, "MixUp, as drawn", 0.27),
        (last, blue, "MetaMixUp, last epoch", 0.73),
    ):
        if part.empty:
            continue
        width = part["high"] - part["low"]
        half = (part["ci_high"] - part["mean"]).fillna(0)
        ax.bar(
            part["low"] + shift * width, part["mean"], 0.44 * width, color=colour, alpha=0.75,
            yerr=half, error_kw={"lw": 0.8}, label=label,
        )  # fmt: skip
    if not first.empty:
        edges = [*first["low"], first["high"].iloc[-1]]
        ax.stairs(first["mean"], edges, color="black", lw=1.0, ls="--",
                  label="MetaMixUp, first epoch")  # fmt: skip
        ax.axhline(first["beta_1"].iloc[0], color=red, lw=1.2, label="Beta(1, 1)")
        ax.set_title(first["label"].iloc[0], fontsize=10)
    ax.set_xlim(0, 1)
    ax.set_ylim(bottom=0)
    ax.grid(axis="y", lw=0.4, alpha=0.5)


def _frequencies(histogram: list[int]) -> list[float]:
    counts = np.asarray(histogram, dtype=float)
    return list(100 * counts / counts.sum())


def near(histogram: list[int]) -> tuple[float, float]:
    """Returns the parts of λ, in percent, within END of 0 and of 1, of equal bins over [0, 1]."""
    parts = _frequencies(histogram)
    bins = round(END * len(parts))
    return sum(parts[:bins]), sum(parts[-bins:])


def _text(outcome: Outcome) -> str:
    def said(dataset: str) -> tuple[Sequence[str], list[list[str]], Iterator[str]]:
        by_row = {row.row.key: outcome.results(dataset, row) for row in outcome.plan.rows}
        table = [_cells(row, by_row[row.row.key]) for row in outcome.plan.rows]
        head = ("policy", "near 0, first", "near 1, first", "near 0, last", "near 1, last")
        return head, table, _verdicts(outcome.plan.rows, by_row)

    note = (
        f"- Beta(1, 1) has {100 * END:g} % near each end. The paper: "
        '"a higher frequency of 0 and 1 has occurred in MetaMixUp compared to MixUp". '
        "In the table the mean over seeds ± half of the 95 % interval; p of the t test against the "
        "exact part, adjusted by Holm's method for both ends of all policies on one data set."
    )
    return figure_text(outcome, f"λ within {END:g} of 0 and of 1, in percent", said, note)


def _cells(row: StudyRow, results: Results) -> list[str]:
    cells = [row.row.label]
    for name in _EPOCHS.values():
        ends = [near(getattr(result, name)) for result in results.values()]
        cells += [mean_text([pair[at] for pair in ends], 1) for at in range(2)]
    return cells


def _verdicts(rows: Sequence[StudyRow], by_row: Mapping[str, Results]) -> Iterator[str]:
    """Says whether the last epoch shows the paper's figure, each end against the exact part."""
    ends = {
        (row.row.key, end): {
            seed: near(result.lam_histogram)[end] for seed, result in by_row[row.row.key].items()
        }
        for row in rows
        if row.row.key != REFERENCE and by_row[row.row.key]
        for end in range(2)
    }
    exact = 100 * END
    against = contrasts(
        {key: (values, dict.fromkeys(values, exact)) for key, values in ends.items()}
    )
    for row in rows:
        if (row.row.key, 0) not in ends:
            continue
        shares = []
        for end in range(2):
            interval = mean_interval(list(ends[row.row.key, end].values()))
            shares.append(
                f"{_ranged(interval)} of λ are within {END:g} of {end} "
                f"({against[row.row.key, end].text(1)} against Beta(1, 1))"
            )
        above = sum(against[row.row.key, end].direction > 0 for end in range(2))
        shown = {2: "is there", 1: "is there at one end only"}.get(above, "is not there")
        yield f"- {row.row.label}, last epoch: the paper's figure {shown}. {', '.join(shares)}."


def _ranged(interval: MeanInterval) -> str:
    if interval.n < 2:
        return f"{interval.mean:.1f} %"
    return f"{interval.mean:.1f} % [{interval.low:.1f}, {interval.high:.1f}]"

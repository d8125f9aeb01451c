"""What several searches for α found, beside the errors of constant α."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from core.lazy import pandas as pd
from core.policies import NoMix
from hpo.report.contrasts import paired
from hpo.report.figure_files import drawn, mean_line, seeds_of
from hpo.report.markdown import difference, padded_table
from hpo.report.outcome import Extra, Outcome
from hpo.report.records import errors_by_seed, finished_finals
from hpo.report.statistics import lowest
from hpo.report.style import COLORS, WIDTH, canvas, legend_below, short_name
from hpo.study.rows import StudyRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ZERO_AT = 0.05
"""Where no mixing stands on a logarithmic axis, or lower: at half of the lowest α above 0."""

_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 4, 8, 16, 32, 64)


def alpha_search(outcome: Outcome) -> Extra:
    """Writes `STUDY-curve.csv` (a line a row: its α, its error, what that is above the lowest error
    of a constant α, of those with the most seeds) and `.png`, and says how far apart the searches
    ended.

    A study in which no search has ended has no such part.
    """
    frame = pd.DataFrame([line for data in outcome.plan.datasets for line in _lines(outcome, data)])
    if frame.empty or not frame["searched"].any():
        return Extra()
    csv, picture = drawn(outcome, "curve", frame, curve_figure(frame), "%.6g")
    parts = [_text(here[here["searched"]]) for _, here in frame.groupby("dataset", sort=False)]
    text = "\n\n".join(["## What the searches found", f"![α]({picture.name})", *parts])
    return Extra(f"{text}\n", [csv, picture])


def curve_figure(frame: pd.DataFrame) -> Figure:
    """Draws for each data set the error over constant α, and what each search found.

    Args:
        frame: a line a row, with dataset, searched, alpha, n_seeds, mean, ci_low, ci_high.
    """
    datasets = list(frame["dataset"].unique())
    figure = canvas(WIDTH, 0.6 + 3.2 * len(datasets))
    axes = figure.subplots(len(datasets), 1, squeeze=False)[:, 0]
    for ax, dataset in zip(axes, datasets, strict=True):
        here = frame[frame["dataset"] == dataset]
        positive = here["alpha"][here["alpha"] > 0]
        zero_at = min([_ZERO_AT, *(positive / 2)])
        _draw(ax, here[~here["searched"]], COLORS[0], "s-", "constant α", zero_at)
        _draw(ax, here[here["searched"]], COLORS[1], "D", "α of a search", zero_at)
        ax.set_xscale("log")
        shown = [tick for tick in _TICKS if zero_at < tick <= max([8, *positive])]
        ax.set_xticks([zero_at, *shown], ["0", *(f"{tick:g}" for tick in shown)], minor=False)
        ax.set_xticks([], minor=True)
        ax.set(xlabel="α of Beta(α, α)", ylabel="test error (%)")
        ax.set_title(short_name(dataset), loc="left")
        ax.grid(lw=0.4, alpha=0.5)
    legend_below(figure, axes, 2, seeds_of(frame, "bars"))
    return figure


def _draw(
    ax: Axes, lines: pd.DataFrame, color: str, style: str, label: str, zero_at: float
) -> None:
    """Draws errors with intervals over α; `style` is a marker, and a line where they are joined."""
    low, high = lines["mean"] - lines["ci_low"], lines["ci_high"] - lines["mean"]
    ax.errorbar(
        lines["alpha"].where(lines["alpha"] > 0, zero_at),
        lines["mean"],
        [low.fillna(0), high.fillna(0)],
        fmt=style,
        color=color,
        capsize=2,
        lw=1,
        label=label,
    )


def _lines(outcome: Outcome, dataset: str) -> list[dict[str, object]]:
    """Returns a line for each row with a constant α and a finished training, the searched ones
    last, each by α. What trains otherwise than the study's settings say, on more images or for
    longer, is no part of the curve."""
    rows = [row for row in outcome.plan.rows if row.differs_in_policy_alone]
    errors = {row.row.key: errors_by_seed(outcome.records, row.row.key, dataset) for row in rows}
    trained = [
        (row, alpha)
        for row in rows
        if errors[row.row.key] and (alpha := _alpha(outcome, dataset, row)) is not None
    ]
    constants = [
        {"n_seeds": len(values), "mean": math.fsum(values) / len(values), "key": row.row.key}
        for row, _ in trained
        if row.searched is None and (values := errors[row.row.key].values())
    ]
    lowest_line = lowest(constants, lambda line: line["mean"])
    if lowest_line is None:
        return []
    best = errors[str(lowest_line["key"])]
    lines = []
    for row, alpha in sorted(trained, key=lambda each: (each[0].searched is not None, each[1])):
        row_errors = errors[row.row.key]
        against = paired(row_errors, best)
        lines.append(
            mean_line(
                dataset, row, row_errors.values(), searched=row.searched is not None, alpha=alpha,
                above_best=against.difference,
                above_best_ci_low=against.low,
                above_best_ci_high=against.high,
            )
        )  # fmt: skip
    return lines


def _alpha(outcome: Outcome, dataset: str, row: StudyRow) -> float | None:
    """Returns the α that a row's finished trainings drew with; None where it has none."""
    for record in finished_finals(outcome.records, row.row.key, dataset):
        policy = record.cell.training.policy
        alpha = 0.0 if isinstance(policy, NoMix) else getattr(policy, "alpha", None)
        return None if alpha is None else float(alpha)
    return None


def _text(searches: pd.DataFrame) -> str:
    """Says what the searches of a data set found, and how far apart."""
    if searches.empty:
        return ""
    table = padded_table(
        ("data set", "row", "α", "error (%)", "− lowest of the curve"),
        [
            (
                short_name(line["dataset"]),
                line["label"],
                f"{line['alpha']:.3g}",
                f"{line['mean']:.2f}",
                difference(
                    line["above_best"], line["above_best_ci_low"], line["above_best_ci_high"]
                ),
            )
            for line in searches.to_dict("records")
        ],
    )
    name, n = short_name(searches["dataset"].iloc[0]), len(searches)
    said = f"- {name}: {n} searches ended"
    if n > 1:
        low, high = searches["alpha"].min(), searches["alpha"].max()
        mean, worst = searches["above_best"].mean(), searches["above_best"].max()
        said += (
            f" between α = {low:.3g} and {high:.3g}; in the mean they have {mean:.2f} points more "
            f"than the lowest error of a constant α, at worst {worst:.2f}. The lowest is chosen by "
            "test errors, which no search sees."
        )
    return f"{table}\n\n{said}"

"""α learned in a training, over its epochs, and what each row's errors cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from core.lazy import pandas as pd
from hpo.report.contrasts import mean_text
from hpo.report.figure_files import drawn
from hpo.report.history import epochs_table, finished_trainings
from hpo.report.markdown import padded_table
from hpo.report.outcome import Extra, Outcome
from hpo.report.panels import Line, draw_cost, label_points
from hpo.report.style import COLORS, DASHES, WIDTH, canvas, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STATISTICS = ("alpha", "alpha_signal")
"""Metrics of an epoch, see `core.LearnedBeta.metrics`."""


def learned_alpha(outcome: Outcome) -> Extra:
    """Writes `STUDY-alpha.csv` (every epoch of every training that learns α) and `.png`, and says
    where α ended.

    A study without such a training has no such part.
    """
    frame = epochs_table(finished_trainings(outcome), STATISTICS)
    if frame.empty:
        return Extra()
    figure = alpha_figure(frame, outcome.frame, outcome.labels)
    csv, picture = drawn(outcome, "alpha", frame, figure, "%.6g")
    ends = frame.groupby(["dataset", "method", "seed"], sort=False)["alpha"].last()
    lines = [
        (dataset, outcome.labels[method], mean_text(alphas, 2))
        for (dataset, method), alphas in ends.groupby(level=[0, 1], sort=False)
    ]
    table = padded_table(("data set", "row", "α at the end"), lines)
    return Extra(f"## α over the training\n\n![α]({picture.name})\n\n{table}\n", [csv, picture])


def alpha_figure(frame: pd.DataFrame, table: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """Draws for each data set α over the epochs, and the error of each row against its cost.

    Thick lines are means over seeds on the logarithmic scale, thin ones single seeds. The cost of a
    row bears that of its search.

    Args:
        frame: of `epochs_table` with STATISTICS, not empty.
        table: of `hpo.report.table.build_table`.
        labels: of the methods that learn α, by key.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    datasets = list(frame["dataset"].unique())
    costs: dict[Axes, list[Line]] = {}
    figure = canvas(WIDTH, 4.2 * len(datasets))
    axes = figure.subplots(len(datasets), 2, squeeze=False)
    for (left, right), dataset in zip(axes, datasets, strict=True):
        here = frame[frame["dataset"] == dataset]
        for at, (method, part) in enumerate(here.groupby("method", sort=False)):
            _draw_alpha(left, part, at, labels[str(method)])
        left.set_yscale("log")
        left.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        left.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        left.yaxis.set_minor_formatter(NullFormatter())
        left.set(xlabel="epoch", ylabel="α of Beta(α, α)")
        left.set_title(short_name(dataset), loc="left")
        left.legend(frameon=False, fontsize=8)
        left.grid(lw=0.4, alpha=0.5)
        costs[right] = table[table["dataset"] == dataset].to_dict("records")
        draw_cost(right, costs[right], "samples")
    label_points(figure, costs, "samples")
    return figure


def _draw_alpha(ax: Axes, part: pd.DataFrame, at: int, label: str) -> None:
    color, dashes = COLORS[at % len(COLORS)], DASHES[at % len(DASHES)]
    mean = part.groupby("epoch")["alpha"].agg(lambda alphas: alphas.prod() ** (1 / len(alphas)))
    ax.plot(mean.index, mean, dashes, color=color, lw=1.8, label=label)
    for _, seed in part.groupby("seed"):
        ax.plot(seed["epoch"], seed["alpha"], dashes, color=color, lw=0.5, alpha=0.4)

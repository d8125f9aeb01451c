"""The figure of a study of readings: error against how far λ moves, and where λ ends."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from core.lazy import pandas as pd
from hpo.analyses.readings.histograms import draw_histogram, lambda_histogram_sums
from hpo.cells.record import CellRecord
from hpo.report.panels import half_width
from hpo.report.style import COLORS, GRAY, canvas, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROJECTIONS = dict(zip(("sigmoid_before", "sigmoid_after", "clip"), COLORS, strict=False))
MARKERS = {"mean": "o", "sum": "s", "rms": "D", "sign": "^"}
TELLING = 6
"""Histograms beside the scatter plot of a data set."""

_LEAST = 1e-4
"""Moves below are drawn at it: the axis is logarithmic."""


def readings_figure(ranked: pd.DataFrame, records: Sequence[CellRecord]) -> Figure:
    """Draws for each data set a row: error against mean |change of λ|, and telling histograms of λ.

    The axis of the error is that of the means: a wide interval of few seeds leaves the panel.

    Args:
        ranked: of `hpo.analyses.readings.ranking.rank_readings`.
        records: those it was made from.
    """
    datasets = list(ranked["dataset"].unique())
    figure = canvas(15, 5.2 * len(datasets))
    parts: Any = figure.subfigures(len(datasets), 2, squeeze=False, width_ratios=(1.0, 1.15))
    for dataset, (left, right) in zip(datasets, parts, strict=True):
        lines = ranked[ranked["dataset"] == dataset].to_dict("records")
        ax = left.subplots()
        _draw_moves(ax, lines)
        ax.set_title(short_name(dataset))
        chosen = telling(lines)
        here = [record for record in records if record.cell.dataset == dataset]
        sums = lambda_histogram_sums(here, [line["method"] for line in chosen])
        panels = list(right.subplots(2, TELLING // 2, squeeze=False).flat)
        shown = [line for line in chosen if line["method"] in sums]
        for panel, line in zip(panels, shown, strict=False):
            verdict = f"\nFig. 6: {line['fig6']}" if line["fig6"] else ""
            draw_histogram(panel, line["method"], *sums[line["method"]])
            panel.set_title(panel.get_title() + verdict, fontsize=8)
        for panel in panels[len(shown) :]:
            panel.set_axis_off()
        if shown:
            handles = right.axes[0].get_legend_handles_labels()
            right.legend(*handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
        right.suptitle(
            "λ of a few readings; Fig. 6 has more near 0 and 1 than MixUp's Beta(1)", fontsize=9
        )
    return figure


def telling(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns at most TELLING lines whose histograms say most, of the lines of one data set by
    rank.

    The lowest error with each verdict on Fig. 6, then the one that moves λ least and the one that
    moves it most, then MixUp, then by rank.
    """
    readings = [line for line in lines if line["fig6"]]
    first = {line["fig6"]: line for line in reversed(readings)}
    wanted = [first[verdict] for verdict in ("yes", "early", "no") if verdict in first]
    moving = sorted((e for e in readings if not math.isnan(e["moves"])), key=lambda e: e["moves"])
    wanted += [*moving[:1], *moving[-1:]]
    wanted += [line for line in lines if line["method"] == "beta-1"]
    unique = {line["method"]: line for line in [*wanted, *readings]}
    return list(unique.values())[:TELLING]


def _draw_moves(ax: Axes, lines: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.lines import Line2D

    for line in lines:
        if line["fig6"] and not math.isnan(line["mean_error"]):
            ax.errorbar(
                max(line["moves"], _LEAST),
                line["mean_error"],
                yerr=half_width(line["mean_error"], line["ci_high"]),
                fmt=MARKERS[line["scale"]],
                color=PROJECTIONS[line["projection"]],
                mfc=PROJECTIONS[line["projection"]] if line["fig6"] == "yes" else "white",
                ms=5.5,
                elinewidth=0.3,
                alpha=0.85,
            )
    dashes = {"none": "-", "beta-1": "--", "beta-0.2": ":", "beta-search": "-."}
    drawn = []
    for line in lines:
        if line["method"] in dashes and not math.isnan(line["mean_error"]):
            style: dict[str, Any] = {"color": "black", "lw": 1.0, "ls": dashes[line["method"]]}
            ax.axhline(line["mean_error"], **style)
            drawn.append(Line2D([], [], label=line["label"], **style))
    point: dict[str, Any] = {"ls": "", "color": GRAY}
    ax.legend(
        handles=[
            *(Line2D([], [], marker="o", ls="", color=c, label=p) for p, c in PROJECTIONS.items()),
            *(Line2D([], [], marker=m, label=s, **point) for s, m in MARKERS.items()),
            Line2D([], [], marker="o", label="filled: shows Fig. 6", **point),
            *drawn,
        ],
        fontsize=7,
        ncols=4,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.11),
        frameon=False,
    )
    ax.set_xscale("log")
    means = [line["mean_error"] for line in lines if not math.isnan(line["mean_error"])]
    if means:
        margin = 0.25 * (max(means) - min(means)) or 0.5
        ax.set_ylim(max(0.0, min(means) - margin), max(means) + margin)
    ax.set_xlabel("mean |change of λ| by learning")
    ax.set_ylabel("test error (%)")
    ax.grid(lw=0.4, alpha=0.4)

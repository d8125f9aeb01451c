"""The figure shows times with operations marked, memory, and the curves of growth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import pandas as pd
from hpo.bench.cost.report import title
from hpo.report.style import COLORS, GRAY, canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = {"vanilla": "#999999", "engine": "#0072B2", "option": "#009E73", "peer": "#E69F00"}
_WIDTH = 12.0  # inches
_BAR = 0.28
_CURVE = 3.4


def cost_figure(frame: pd.DataFrame) -> Figure:
    """Draws one row of panels for each case of the main table, one for each curve of growth.

    Args:
        frame: of `hpo.bench.cost.report.build_table`.

    Raises:
        ValueError: the frame has no row that was measured.
    """
    measured = frame[frame["time_ratio"].notna()]
    if measured.empty:
        raise ValueError("nothing to draw: no contender was measured")
    keys = ["part", "model", "batch_size", "width", "variant"]
    main = measured[measured["part"] == "main"].groupby(keys, sort=False, dropna=False)
    batch = measured[measured["part"] == "batch"].groupby(["model", "variant"], sort=False)
    depth = measured[measured["part"] == "depth"].groupby("variant", sort=False)
    bars, curves = [rows for _, rows in main], [("batch_size", rows) for _, rows in batch]
    curves += [("model", rows) for _, rows in depth]
    heights = [1.2 + _BAR * len(rows) for rows in bars] + [_CURVE] * len(curves)
    figure = canvas(_WIDTH, sum(heights))
    axes = figure.subplots(len(heights), 2, squeeze=False, height_ratios=heights)
    for pair, rows in zip(axes, bars, strict=False):
        _bars(pair[0], pair[1], rows)
    for pair, (column, rows) in zip(axes[len(bars) :], curves, strict=True):
        _curve(pair[0], rows, column, "time_ratio", "time of a step (vanilla = 1)")
        _curve(pair[1], rows, column, "peak_mib", "memory above rest (MiB)")
    return figure


def _bars(times: Axes, memory: Axes, rows: pd.DataFrame) -> None:
    names, places = list(rows["contender"]), range(len(rows))
    colors = [_COLORS[kind] for kind in rows["kind"]]
    whiskers = [
        (rows["time_ratio"] - rows["time_ratio_low"]).clip(lower=0),
        (rows["time_ratio_high"] - rows["time_ratio"]).clip(lower=0),
    ]
    times.barh(places, rows["time_ratio"], color=colors, xerr=whiskers, ecolor=GRAY)
    times.plot(rows["flops_ratio"], places, "|k", markersize=13, markeredgewidth=2, label="FLOPs")
    times.set_title(title(rows.iloc[0]), loc="left")
    times.set_xlabel("time of a step (vanilla = 1)")
    times.legend(frameon=False, loc="lower right")
    memory.barh(places, rows["peak_mib"].fillna(0), color=colors)
    memory.set_xlabel("memory above rest (MiB)")
    for ax in (times, memory):
        ax.set_yticks(places, names)
        ax.invert_yaxis()
        ax.spines[["top", "right"]].set_visible(False)
    memory.tick_params(labelleft=False)


def _curve(ax: Axes, rows: pd.DataFrame, column: str, value: str, label: str) -> None:
    points = list(dict.fromkeys(rows[column]))
    for color, (name, line) in zip(COLORS, rows.groupby("contender", sort=False), strict=False):
        drawn = line.dropna(subset=[value])
        places = [points.index(point) for point in drawn[column]]
        if places:
            ax.plot(places, drawn[value], "o-", color=color, label=str(name))
    ax.set_xticks(range(len(points)), [str(point) for point in points])
    if value == "peak_mib":
        ax.set_yscale("log")
    else:
        ax.set_ylim(bottom=0)
    ax.set_ylabel(label)
    if column == "batch_size":
        ax.set_xlabel("batch size n = m")
        ax.set_title(str(rows.iloc[0]["model"]), loc="left")
    else:
        ax.set_title("depth", loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)

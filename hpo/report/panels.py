"""This module draws the single panels of a study's figure, each into axes that it is given."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from hpo.cells.record import CellRecord
from hpo.report.records import errors_by_seed
from hpo.report.style import FAMILIES, GRAY, show_names_as_they_are

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import Formatter
    from matplotlib.transforms import Bbox

Line = Mapping[str, Any]
"""One row of the table of `hpo.report.table.build_table`."""

COSTS: Mapping[str, tuple[str, str]] = {
    "seconds": ("train_seconds", "training time (s), search included"),
    "samples": ("samples_seen", "samples sent forward, search included"),
}
"""By what a panel of costs measures: the table's column, and the name of the axis."""

_NAME_SIZE = 7.5
_APART = 3  # pixels between names, as letters are wider in some sizes than in that measured


def draw_errors(ax: Axes, lines: Sequence[Line], records: Sequence[CellRecord]) -> set[str]:
    """Draws the mean error with interval for each row from top to bottom; seeds of ``records`` as
    dots.

    What the panel cannot show (a row without results, fewer seeds, the paper's number out of
    range) stands at its right edge.

    Returns:
        Which marks it holds beside the means, for `error_legend`.
    """
    reached: list[float] = []
    marks: set[str] = set()
    references = {line.get("reference") for line in lines} - {None, ""}
    for y, line in enumerate(lines):
        if line["n_seeds"] == 0:
            continue
        color, marker = FAMILIES[line["family"]]
        seeds = [*errors_by_seed(records, line["method"]).values()]
        ax.plot(seeds, [y] * len(seeds), "o", ms=4.5, color=color, alpha=0.3, mew=0, zorder=2)
        mean = line["mean_error"]
        half = half_width(mean, line["ci_high"])
        ax.errorbar(mean, y, xerr=half, fmt=marker, ms=6, color=color, capsize=3)
        interval = (line["ci_low"], line["ci_high"])
        if not math.isnan(line["ci_low"]):
            marks.add("interval")
        reached += [*seeds, line["mean_error"], *(end for end in interval if not math.isnan(end))]
        if seeds:
            marks.add("seed")
        if line["best_beta"]:
            marks.add("best")
            ax.axvline(line["mean_error"], color=color, lw=0.9, ls="--", zorder=1)
        if line["method"] in references:
            marks.add("reference")
            ax.axvline(line["mean_error"], color=GRAY, lw=0.9, ls=":", zorder=1)
    low, high = (min(reached), max(reached)) if reached else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.5
    low, high = max(0.0, low - margin), high + margin
    complete = max(line["n_seeds"] for line in lines)
    for y, line in enumerate(lines):
        paper = line["paper_error"]
        notes = []
        if line["n_seeds"] == 0:
            notes.append("no result")
        elif line["n_seeds"] < complete:
            notes.append(f"n = {line['n_seeds']}")
        if low <= paper <= high:
            marks.add("paper")
            ax.plot(paper, y, "*", ms=11, mfc="none", mec="black", zorder=4)
        elif not math.isnan(paper):
            notes.append(f"paper: {paper:.2f}")
        place: dict[str, Any] = {
            "transform": ax.get_yaxis_transform(),
            "va": "center",
            "fontsize": 8,
        }
        ax.text(1.01, y, ", ".join(notes), color=GRAY, **place)
    ax.set_xlim(low, high)
    ax.set_ylim(len(lines) - 0.5, -0.5)
    ax.set_yticks(range(len(lines)), [_wrap(line["label"], 30) for line in lines])
    ax.set_xlabel("test error (%)")
    ax.grid(axis="x", lw=0.4, alpha=0.5)
    return marks


def error_legend(marks: Collection[str]) -> list[Line2D]:
    """Says what the means and the ``marks`` of `draw_errors` mean."""
    from matplotlib.lines import Line2D

    star: dict[str, Any] = {"marker": "*", "ls": "", "ms": 11, "mfc": "none", "mec": "black"}
    handles = {
        "seed": Line2D([], [], marker="o", ls="", color=GRAY, alpha=0.3, label="one seed"),
        "best": Line2D([], [], color=GRAY, lw=0.9, ls="--", label="best Beta by validation"),
        "reference": Line2D([], [], color=GRAY, lw=0.9, ls=":", label="reference"),
        "paper": Line2D([], [], label="the paper's number", **star),
    }
    label = "mean and 95 % interval" if "interval" in marks else "mean"
    mean = Line2D([], [], marker="o", color=GRAY, label=label)
    return [mean, *(handle for mark, handle in handles.items() if mark in marks)]


def draw_cost(ax: Axes, lines: Sequence[Line], cost: str = "seconds") -> None:
    """Draws mean error against one of COSTS; `label_points` names the points."""
    from matplotlib.ticker import EngFormatter, StrMethodFormatter

    column, title = COSTS[cost]
    for line in lines:
        if line["n_seeds"] > 0:
            color, marker = FAMILIES[line["family"]]
            ax.plot(line[column], line["mean_error"], marker, ms=7, color=color)
    counted = EngFormatter(sep="") if cost == "samples" else StrMethodFormatter("{x:g}")
    scale_of_costs(ax, [line[column] for line in lines if line["n_seeds"] > 0], counted)
    ax.set_xlabel(title)
    ax.set_ylabel("test error (%)")
    ax.grid(which="both", lw=0.4, alpha=0.4)


def scale_of_costs(ax: Axes, costs: Sequence[float], counted: Formatter) -> None:
    """Makes the horizontal axis one of costs: logarithmic, with few and plain numbers however close
    the costs are, and with room for the names of the first and the last point."""
    from matplotlib.ticker import LogLocator, NullFormatter

    ax.set_xscale("log")
    if costs:
        ax.set_xlim(min(costs) / 1.8, max(costs) * 2.5)
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(counted)
    ax.xaxis.set_minor_formatter(NullFormatter())


def label_points(
    figure: Figure, panels: Mapping[Axes, Sequence[Line]], cost: str = "seconds"
) -> None:
    """Names the points of `draw_cost` panels where names overlap least, with a thin line to each.

    The figure must be complete otherwise: names are placed by where the points are drawn.
    """
    show_names_as_they_are(figure)
    figure.draw_without_rendering()
    for ax, lines in panels.items():
        shown = sorted((e for e in lines if e["n_seeds"] > 0), key=lambda e: e["mean_error"])
        places = [(e[COSTS[cost][0]], e["mean_error"]) for e in shown]
        taken = [_box(x, y, 10, 10) for x, y in map(ax.transData.transform, places)]
        for line, place in zip(shown, places, strict=True):
            taken.append(_place_name(figure, ax, line, place, taken).padded(_APART))


def _wrap(label: str, width: int) -> str:
    return textwrap.fill(label, width, break_on_hyphens=False)


def half_width(mean: float, high: float) -> float | None:
    """Returns half the width of an interval for an error bar, None where it has none."""
    return None if math.isnan(high) else high - mean


def _place_name(
    figure: Figure, ax: Axes, line: Line, at: tuple[float, float], taken: Sequence[Bbox]
) -> Bbox:
    """Writes one name beside its point; returns the name's box in pixels."""
    from matplotlib.patheffects import withStroke

    point = ax.transData.transform(at)
    name = _wrap(line["label"], 24)
    ruler = ax.text(0, 0, name, fontsize=_NAME_SIZE, parse_math=False)
    size, frame = ruler.get_window_extent(), ax.get_window_extent()
    ruler.remove()
    pixels, width, height = figure.dpi / 72, size.width, size.height
    step = 0.6 * height / (1 + name.count("\n"))

    def penalty(candidate: tuple[int, int]) -> float:
        side, steps = candidate
        box = place(side, steps)
        overlap = sum(_overlap(box, other) for other in taken)
        outside = width * height - _overlap(box, frame)
        # Overlaps weigh most; then what is near, and to the right rather than to the left.
        return 40 * overlap + 40 * outside + height * (8 * abs(steps) + (side < 0))

    def place(side: int, steps: int) -> Bbox:
        x = point[0] + side * (10 * pixels + width / 2 + abs(steps) * 0.5 * pixels)
        return _box(x, point[1] + steps * step, width, height)

    side, steps = min(product((1, -1), range(-14, 15)), key=penalty)
    box = place(side, steps)
    near = box.x0 if side > 0 else box.x1
    color = FAMILIES[line["family"]][0]
    text = ax.annotate(
        name,
        at,
        xytext=((near - point[0]) / pixels, ((box.y0 + box.y1) / 2 - point[1]) / pixels),
        textcoords="offset points",
        fontsize=_NAME_SIZE,
        color=color,
        ha="left" if side > 0 else "right",
        va="center",
        arrowprops={
            "arrowstyle": "-",
            "lw": 0.5,
            "color": color,
            "relpos": (0.0 if side > 0 else 1.0, 0.5),
            "shrinkA": 0,
            "shrinkB": 3,
        },
    )
    text.set_in_layout(False)
    text.set_path_effects([withStroke(linewidth=2, foreground="white")])  # intervals cross names
    return box


def _box(x: float, y: float, width: float, height: float) -> Bbox:
    from matplotlib.transforms import Bbox

    return Bbox.from_bounds(x - width / 2, y - height / 2, width, height)


def _overlap(one: Bbox, other: Bbox) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(0.0, width) * max(0.0, height)

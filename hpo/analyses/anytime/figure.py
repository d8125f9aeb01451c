"""The figure of anytime curves: error of the incumbent against cost, with intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Literal

from hpo.analyses.anytime.curves import REFERENCES, Point
from hpo.report.statistics import mean_interval
from hpo.report.style import COLORS, DASHES, canvas, legend_below, short_name
from hpo.study.plan import SearchKey

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Cost = Literal["train_seconds", "samples_seen"]

_COSTS: Mapping[Cost, str] = {
    "train_seconds": "training time (s)",
    "samples_seen": "samples sent forward in training",
}
_EARLY = 0.2
"""Of the axis: errors that are left before it do not set the scale."""
_APART = 0.012
"""Of the axis: between the intervals at its end."""


def anytime_figure(
    curves: Mapping[SearchKey, Sequence[Point]], labels: Mapping[str, str]
) -> Figure:
    """Draws a row of panels for each data set: against training seconds, and against samples.

    Bands are 95 % intervals over seeds; nine of them would hide each other, so the references have
    theirs along the curve, and every strategy has its last one as a bar beside the end.

    Args:
        curves: of `hpo.analyses.anytime.curves.curves`.
        labels: how strategies are called.
    """
    datasets = list(dict.fromkeys(dataset for _, dataset, _ in curves))
    methods = list(dict.fromkeys(method for method, _, _ in curves))
    figure = canvas(13, 4.4 * len(datasets) + 0.9)
    axes = figure.subplots(len(datasets), len(_COSTS), squeeze=False, sharey="row")
    for row, dataset in zip(axes, datasets, strict=True):
        for ax, (cost, name) in zip(row, _COSTS.items(), strict=True):
            seeds = {
                m: [t for (k, d, _), t in curves.items() if (k, d) == (m, dataset)] for m in methods
            }
            _draw(ax, seeds, cost, labels)
            ax.set_xlabel(name)
        row[0].set_ylabel("test error of the incumbent (%)")
        row[0].set_title(short_name(dataset), loc="left")
    legend_below(figure, axes.flat, 5)
    return figure


def band(
    seeds: Sequence[Sequence[Point]], cost: Cost, end: float
) -> list[tuple[float, float, float, float]]:
    """Returns the mean over seeds and its interval as steps: (cost, mean, low, high) from where it
    holds.

    Starts where every seed that comes to an incumbent has one; the last step is repeated at `end`.
    """
    reached = [[p for p in trained if not math.isnan(p.test_error)] for trained in seeds]
    reached = [trained for trained in reached if trained]
    if not reached:
        return []
    start = max(getattr(trained[0], cost) for trained in reached)
    places = {getattr(p, cost) for trained in reached for p in trained}
    steps = []
    for place in sorted(x for x in places if x >= start):
        errors = [
            [p.test_error for p in trained if getattr(p, cost) <= place][-1] for trained in reached
        ]
        interval = mean_interval(errors)
        steps.append((place, interval.mean, interval.low, interval.high))
    return [*steps, (end, *steps[-1][1:])]


def _draw(
    ax: Axes,
    by_method: Mapping[str, Sequence[Sequence[Point]]],
    cost: Cost,
    labels: Mapping[str, str],
) -> None:
    ends = [getattr(t[-1], cost) for seeds in by_method.values() for t in seeds if t]
    end = max(ends, default=1.0)
    seen: list[float] = []
    halves: list[float] = []
    for index, (method, seeds) in enumerate(by_method.items()):
        steps = band(seeds, cost, end)
        color = COLORS[index % len(COLORS)]
        dash = DASHES[index // len(COLORS) % len(DASHES)]
        places, means, lows, highs = ([step[i] for step in steps] for i in range(4))
        ax.step(places, means, dash, where="post", color=color, lw=1.6, label=labels[method])
        seen += [mean for place, mean, *_ in steps if place >= _EARLY * end]
        if not steps or math.isnan(lows[-1]):
            continue
        if method in REFERENCES:
            ax.fill_between(places, lows, highs, step="post", color=color, alpha=0.13, lw=0)
        half = highs[-1] - means[-1]
        beside = end * (1.02 + _APART * index)
        ax.errorbar(beside, means[-1], yerr=half, fmt="o", ms=3.5, capsize=2, color=color, lw=1.1)
        halves.append(half)
    if seen:
        margin = max(0.2 * (max(seen) - min(seen)), 1.1 * median(halves or [0.0]), 0.1)
        ax.set_ylim(max(0.0, min(seen) - margin), max(seen) + margin)
    ax.set_xlim(0, end * (1.04 + _APART * len(by_method)))
    ax.grid(alpha=0.25)

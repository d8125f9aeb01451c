"""This module draws precision against the number of labels looked at."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from hpo.report.style import COLORS, canvas, legend_below, short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curves = dict[str, list[tuple[np.ndarray, np.ndarray]]]
"""By method, for each seed: precision at 1, ..., N labels, and which labels are wrong, bool [N]."""


def curve_figure(curves: Mapping[str, Curves], labels: Mapping[str, str]) -> Figure:
    """Draws a panel for each data set: means over seeds, bands from the lowest to the highest seed.

    Args:
        curves: by data set; not empty.
        labels: of the methods, by key.
    """
    figure = canvas(6.5 * len(curves), 4.6)
    colors = dict(zip(labels, cycle(COLORS), strict=False))
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    for ax, (dataset, methods) in zip(axes, curves.items(), strict=True):
        wrongs = [wrong for seeds in methods.values() for _, wrong in seeds]
        count, total = (float(np.mean([f(wrong) for wrong in wrongs])) for f in (np.sum, len))
        for method, seeds in methods.items():
            shortest = min(len(curve) for curve, _ in seeds)
            values = np.stack([curve[:shortest] for curve, _ in seeds])
            k = np.arange(1, shortest + 1)
            color = colors[method]
            ax.fill_between(k, values.min(0), values.max(0), color=color, alpha=0.15, lw=0)
            ax.plot(k, values.mean(0), color=color, lw=1.6, label=labels[method])
        ax.axhline(count / total, color="#7F7F7F", lw=0.9, ls="--", label="guessing")
        ax.axvline(count, color="#7F7F7F", lw=0.9, ls=":", label="number of wrong labels")
        ax.set(xlim=(1, min(total, 2 * count)), ylim=(0.0, 1.02))
        ax.set_xlabel("labels looked at, the most suspect first")
        ax.set_ylabel("part of them that is wrong")
        ax.set_title(short_name(dataset))
        ax.grid(lw=0.4, alpha=0.5)
    legend_below(figure, axes, 3)
    return figure

"""This module draws AdaMixUp over training: the region of λ, what the discriminator recognizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from core.lazy import pandas as pd
from hpo.report.style import COLORS, GRAY, canvas, legend_below, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHANCE = 50.0
"""Percent that the discriminator's accuracy has by guessing."""

_HATCHES = ("", "///", "\\\\\\", "...", "xxx", "---", "+++")
_REGION = {"region_low": "-", "region_high": "-"}
_ACCURACY = {"discriminator_held_out": "-", "discriminator_accuracy": "--"}
"""What a panel draws, and in which dashes."""


def region_figure(frame: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """Draws for each data set the region of λ over the epochs, and the discriminator's accuracy.

    Thick lines are means over seeds, thin ones single seeds. Accuracies are those on held-out
    images, and dashed those on training batches.

    Args:
        frame: of `hpo.report.history.epochs_table`, not empty.
        labels: of the methods, by key.
    """
    from matplotlib.ticker import MaxNLocator

    datasets, methods = (list(frame[name].unique()) for name in ("dataset", "method"))
    figure = canvas(11, 3.8 * len(datasets) + 0.25 * len(methods) + 0.3)
    axes = figure.subplots(len(datasets), 2, squeeze=False)
    for (region, accuracy), dataset in zip(axes, datasets, strict=True):
        here = frame[frame["dataset"] == dataset]
        for index, method in enumerate(methods):
            epochs = here[here["method"] == method]
            ends = epochs.groupby("epoch")[list(_REGION)].mean().dropna()
            region.fill_between(ends.index, *(ends[name] for name in ends), **_fill(index))
            for ax, names in ((region, _REGION), (accuracy, _ACCURACY)):
                for name, dashes in names.items():
                    _draw_lines(ax, epochs.dropna(subset=name), name, index, dashes)
        for ax, levels in ((region, (1 / 3, 2 / 3)), (accuracy, (CHANCE,))):
            for level in levels:
                ax.axhline(level, color=GRAY, lw=0.9, ls=":")
            ax.set_xlabel("epoch")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.grid(alpha=0.25)
        region.set(ylim=(0.0, 1.0), ylabel="region of λ, [a, a + b]")
        region.set_title(short_name(dataset), loc="left")
        low = min(45.0, accuracy.get_ylim()[0])
        accuracy.set(ylim=(low, 101.0), ylabel="discriminator's accuracy (%)")
    legend_below(figure, _legend([labels[method] for method in methods]), 4)
    return figure


def _draw_lines(ax: Axes, epochs: pd.DataFrame, name: str, index: int, dashes: str) -> None:
    """Draws the mean over seeds, and thin behind it each seed; nothing where there are none."""
    if epochs.empty:
        return
    style: dict[str, Any] = {"color": COLORS[index % len(COLORS)], "ls": dashes}
    mean = epochs.groupby("epoch")[name].mean()
    ax.plot(mean.index, mean, lw=1.6, zorder=3, **style)
    for _, seed in epochs.groupby("seed"):
        ax.plot(seed["epoch"], seed[name], lw=0.6, alpha=0.5, **style)


def _fill(index: int) -> dict[str, Any]:
    color, hatch = COLORS[index % len(COLORS)], _HATCHES[index % len(_HATCHES)]
    style: dict[str, Any] = {"facecolor": color, "alpha": 0.25, "lw": 0}
    return style | ({"hatch": hatch, "edgecolor": color} if hatch else {})


def _legend(labels: Sequence[str]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [
        *(Patch(label=label, **_fill(index)) for index, label in enumerate(labels)),
        Line2D([], [], color=GRAY, lw=1.6, label="mean; right: held-out images"),
        Line2D([], [], color=GRAY, lw=1.6, ls="--", label="right: training batches"),
        Line2D([], [], color=GRAY, lw=0.6, alpha=0.5, label="one seed"),
        Line2D([], [], color=GRAY, lw=0.9, ls=":", label="before training; guessing"),
    ]

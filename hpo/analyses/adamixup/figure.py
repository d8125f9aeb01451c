"""The picture of AdaMixUp over training: the region of λ, and what the discriminator recognises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from hpo.report.panels import short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHANCE = 50.0
"""Percent that the discriminator's accuracy has by guessing."""

# Okabe and Ito's palette, safe for the colour-blind.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_HATCHES = ("", "///", "\\\\\\", "...", "xxx", "---", "+++")
_GREY = "#555555"

_HELD_OUT, _TRAINING = "discriminator_held_out", "discriminator_accuracy"
_DASHES = {_HELD_OUT: "-", _TRAINING: "--"}


def figure(frame: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """For each data set the region of λ over the epochs, and the discriminator's accuracy.

    Thick lines are means over seeds, thin ones single seeds. Accuracies are those on held-out
    images, and dashed those on training batches.

    Args:
        frame: of `hpo.analyses.adamixup.report.statistics`, not empty.
        labels: how methods are called.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    datasets, methods = (list(frame[name].unique()) for name in ("dataset", "method"))
    height = 3.8 * len(datasets) + 0.25 * len(methods) + 0.3
    drawn = Figure(figsize=(11, height), layout="constrained")
    FigureCanvasAgg(drawn)
    axes = drawn.subplots(len(datasets), 2, squeeze=False)
    for (left, right), dataset in zip(axes, datasets, strict=True):
        here = frame[frame["dataset"] == dataset]
        for index, method in enumerate(methods):
            own = here[here["method"] == method]
            _draw_region(left, own, index)
            _draw_accuracy(right, own, index)
        left.axhline(1 / 3, color=_GREY, lw=0.9, ls=":")
        left.axhline(2 / 3, color=_GREY, lw=0.9, ls=":")
        right.axhline(CHANCE, color=_GREY, lw=0.9, ls=":")
        left.set_ylim(0.0, 1.0)
        right.set_ylim(min(45.0, right.get_ylim()[0]), 101.0)
        left.set_ylabel("region of λ, [a, a + b]")
        right.set_ylabel("discriminator's accuracy (%)")
        left.set_title(short_name(dataset), loc="left")
        for ax in (left, right):
            ax.set_xlabel("epoch")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.grid(alpha=0.25)
    handles = _legend([labels[method] for method in methods])
    columns = 4 if max(len(handle.get_label()) for handle in handles) <= 32 else 2
    drawn.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
    return drawn


def _draw_region(ax: Axes, frame: pd.DataFrame, index: int) -> None:
    told = frame.dropna(subset=["region_low", "region_high"])
    if told.empty:
        return
    ends = told.groupby("epoch")[["region_low", "region_high"]].mean()
    ax.fill_between(ends.index, ends["region_low"], ends["region_high"], **_fill(index))
    for name in ends:
        _draw_lines(ax, told, str(name), index)


def _draw_accuracy(ax: Axes, frame: pd.DataFrame, index: int) -> None:
    for name, dashes in _DASHES.items():
        told = frame.dropna(subset=name)
        if not told.empty:
            _draw_lines(ax, told, name, index, dashes)


def _draw_lines(ax: Axes, frame: pd.DataFrame, name: str, index: int, dashes: str = "-") -> None:
    """The mean over seeds, and thin behind it each seed."""
    colour = _COLOURS[index % len(_COLOURS)]
    mean = frame.groupby("epoch")[name].mean()
    ax.plot(mean.index, mean, color=colour, lw=1.6, ls=dashes, zorder=3)
    for _, seed in frame.groupby("seed"):
        ax.plot(seed["epoch"], seed[name], color=colour, lw=0.6, ls=dashes, alpha=0.5)


def _fill(index: int) -> dict[str, Any]:
    colour, hatch = _COLOURS[index % len(_COLOURS)], _HATCHES[index % len(_HATCHES)]
    style: dict[str, Any] = {"facecolor": colour, "alpha": 0.25, "lw": 0}
    return style | ({"hatch": hatch, "edgecolor": colour} if hatch else {})


def _legend(labels: Sequence[str]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [
        *(Patch(label=label, **_fill(index)) for index, label in enumerate(labels)),
        Line2D([], [], color=_GREY, lw=1.6, label="mean; right: held-out images"),
        Line2D([], [], color=_GREY, lw=1.6, ls="--", label="right: training batches"),
        Line2D([], [], color=_GREY, lw=0.6, alpha=0.5, label="one seed"),
        Line2D([], [], color=_GREY, lw=0.9, ls=":", label="before training; guessing"),
    ]

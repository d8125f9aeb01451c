"""This module draws κ, and how much of it (P2) sees, over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from core.analysis.proposition1 import OUTPUTS
from core.lazy import pandas as pd
from hpo.report.style import COLORS, GRAY, MARKERS, WIDTH, canvas, legend_below, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ABOVE: Mapping[str, Any] = {
    "xytext": (0, -2), "textcoords": "offset points", "ha": "right", "va": "top", "color": GRAY
}  # fmt: skip
_HEIGHT = 2.9  # inches of a row of panels

_PANELS: Sequence[tuple[str, tuple[str, str], str]] = (
    ("κ (solid), largest ratio (dashed)", ("kappa", "ratio"), "log"),
    ("part of a pair's own κ:\nlargest (solid), median (dashed)", ("share", "share_median"), "log"),
    ("mean left side (solid),\nMixUp's ℓ1 loss (dashed)", ("gap", "mixup_l1"), "linear"),
)
"""Title of the panel, what is drawn solid and dashed, and the scale."""


def curvature_figure(looks: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """Draws for each data set and output a row of three panels over epochs, one color a method.

    Lines are means over seeds, on logarithmic axes geometric ones; bands span the seeds. The line
    at 1 is what (P2) allows.

    Args:
        looks: of `hpo.analyses.proposition1.comparison.looks_table`, not empty.
        labels: of the methods, by key.
    """
    datasets = list(looks["dataset"].unique())
    rows = [(dataset, output) for dataset in datasets for output in OUTPUTS]
    figure = canvas(WIDTH, _HEIGHT * len(rows) + 0.6)
    axes = figure.subplots(len(rows), len(_PANELS), squeeze=False)
    for line, (dataset, output) in zip(axes, rows, strict=True):
        here = looks[(looks["dataset"] == dataset) & (looks["output"] == output)]
        for ax, (name, columns, scale) in zip(line, _PANELS, strict=True):
            _draw(ax, here, columns, labels, logarithmic=scale == "log")
            if columns[0] == "share":
                ax.axhline(1.0, color=GRAY, lw=0.9)
                ax.annotate("(P2)", (0.99, 1.0), xycoords=("axes fraction", "data"), **_ABOVE)
            title = name if here[columns[1]].notna().any() else name.split(" (")[0]
            ax.set_title(title, fontsize=10)
        line[0].set_ylabel(f"{short_name(dataset, 24)}\nf is a {output}")
    for ax in axes[-1]:
        ax.set_xlabel("epoch")
    n = looks["seed"].nunique()
    seeds = f"means over {n} seeds" if n > 1 else "one seed"
    bands = f"{seeds}, bands: from the lowest seed to the highest"
    legend_below(figure, axes.flat, 8, bands)
    return figure


def _draw(
    ax: Axes,
    looks: pd.DataFrame,
    columns: Sequence[str],
    labels: Mapping[str, str],
    *,
    logarithmic: bool,
) -> None:
    from matplotlib.ticker import StrMethodFormatter
    from scipy.stats import gmean

    epochs = sorted(looks["epoch"].unique())
    for index, method in enumerate(labels):
        style: dict[str, Any] = {"color": COLORS[index % len(COLORS)], "lw": 1.5, "ms": 4}
        marked: dict[str, Any] = {"marker": MARKERS[index % len(MARKERS)], "label": labels[method]}
        for column, dashes in zip(columns, ("-", "--"), strict=True):
            shown = looks[(looks["method"] == method) & looks[column].notna()]
            if logarithmic:
                shown = shown[shown[column] > 0]
            if shown.empty:
                continue
            seeds = shown.groupby("epoch")[column]
            middle = seeds.agg(gmean if logarithmic else "mean")
            ax.plot(middle.index, middle, ls=dashes, **style, **(marked if dashes == "-" else {}))
            band: dict[str, Any] = {"color": style["color"], "alpha": 0.12, "lw": 0}
            ax.fill_between(middle.index, seeds.min(), seeds.max(), **band)
    ax.set_xscale("log")
    ax.set_xticks(epochs, [str(epoch) for epoch in epochs])
    ax.minorticks_off()
    if logarithmic:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        ax.set_ylim(bottom=0)
    ax.grid(lw=0.4, alpha=0.5)

"""This module says how figures look and are written: palette, markers, dashes, canvas, PNG.

Every figure uses Matplotlib's object-oriented interface on the Agg canvas: no window, no pyplot, no
state between figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.storage.atomic import in_place_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS: Sequence[str] = (
    "#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F",
)  # fmt: skip
"""Okabe and Ito's palette, safe for the color-blind. Rows differ in marker and dashes too."""
MARKERS = "sDovP^X*"
DASHES = ("-", "--", "-.", ":")

FAMILIES: Mapping[str, tuple[str, str]] = {
    "none": ("#000000", "o"),
    "beta": ("#0072B2", "s"),
    "fixed": ("#7F7F7F", "^"),
    "learned": ("#D55E00", "D"),
    "placebo": ("#CC79A7", "v"),
    "frozen": ("#56B4E9", "X"),
    "extra": ("#009E73", "P"),
}
"""Color and marker of each family of rows."""

WIDTH = 9.5
"""Inches of a whole figure. At the width of a README page its texts are then read in their size."""


def canvas(width: float, height: float) -> Figure:
    """Returns an empty figure of so many inches, laid out so that nothing is cut off."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path, dpi: int = 150) -> Path:
    """Writes the figure as PNG, whole or not at all; parent folders are created.

    Returns:
        ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with in_place_of(path) as aside:
        figure.savefig(aside, format="png", dpi=dpi)
    return path


def short_name(dataset: str) -> str:
    """Returns a data set's name for a title; of a long path the end."""
    return dataset if len(dataset) <= 40 else f"…{dataset[-39:]}"

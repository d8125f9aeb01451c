"""This module says how figures look and are written: palette, markers, dashes, canvas, PNG.

Every figure uses Matplotlib's object-oriented interface on the Agg canvas: no window, no pyplot, no
state between figures.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.report.theme import in_theme
from hpo.storage.atomic import in_place_of

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure, SubFigure

COLORS: Sequence[str] = (
    "#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F",
)  # fmt: skip
"""Okabe and Ito's palette, safe for the color-blind. Rows differ in marker and dashes too."""
MARKERS = "sDovP^X*"
DASHES = ("-", "--", "-.", ":")

CLASS_COLORS: Sequence[str] = (
    "#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255",
    "#AA4499", "#000000",
)  # fmt: skip
"""Paul Tol's muted palette for ten classes, safe for the color-blind, and black. With the shapes
beside them and the names in the picture no class is told by color alone."""
CLASS_MARKERS = "os^Dv<>PXp"

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

GRAY = "#555555"
"""What belongs to no row: marks of legends, lines to compare with."""

WIDTH = 9.5
"""Inches of a whole figure. At the width of a README page its texts are then read in their size."""

_ASIAN = 0x2E80
_ASIAN_FONTS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Source Han Sans", "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei", "IPAGothic", "Droid Sans Fallback", "Hiragino Sans", "PingFang SC",
    "Arial Unicode MS", "Yu Gothic", "MS Gothic", "Microsoft YaHei", "Malgun Gothic",
)  # fmt: skip
"""Fonts of Linux, macOS and Windows with the letters from there on."""


def canvas(width: float, height: float) -> Figure:
    """Returns an empty figure of so many inches, laid out so that nothing is cut off."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def legend_below(
    figure: Figure | SubFigure,
    named: Iterable[Any],
    columns: int,
    title: str | None = None,
) -> None:
    """Names below all panels what these axes hold, or these handles, each name once, in so many
    columns or as many as have room."""
    handles: dict[str, Any] = {}
    for each in named:
        has_names = hasattr(each, "get_legend_handles_labels")
        for handle in each.get_legend_handles_labels()[0] if has_names else [each]:
            handles.setdefault(handle.get_label(), handle)
    for ncols in range(columns, 0, -1):
        legend = figure.legend(
            handles=[*handles.values()],
            loc="outside lower center",
            ncols=ncols,
            frameon=False,
            title=title,
        )
        show_names_as_they_are(legend)
        if ncols == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def save_figure(figure: Figure, path: Path, dpi: int = 150) -> Path:
    """Writes the figure as PNG in the theme, whole or not at all; parent folders are created.

    Returns:
        ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    show_names_as_they_are(figure)
    in_theme(figure)
    with in_place_of(path) as aside, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # a box says so
        figure.savefig(aside, format="png", dpi=dpi)
    return path


def short_name(dataset: str, length: int = 40) -> str:
    """Returns a data set's name for a title, or for the shorter label of an axis; of a long path
    the end."""
    return dataset if len(dataset) <= length else f"…{dataset[1 - length :]}"


def show_names_as_they_are(drawn: Artist) -> None:
    """Keeps two dollar signs in a name from being read as a formula, and finds its letters a font.

    Ticks of logarithmic axes stay as they are: powers of ten are formulas.
    """
    from matplotlib.font_manager import fontManager
    from matplotlib.text import Text

    ticks: set[Text] = set()
    for ax in drawn.findobj(lambda artist: hasattr(artist, "xaxis") and hasattr(artist, "yaxis")):
        for axis in (ax.xaxis, ax.yaxis):  # type: ignore[attr-defined]
            if axis.get_scale() == "log":
                ticks.update(axis.get_ticklabels(which="both"), [axis.get_offset_text()])
    installed: list[str] | None = None
    for text in drawn.findobj(Text):
        assert isinstance(text, Text)
        if text not in ticks:
            text.set_parse_math(False)
        if any(ord(letter) >= _ASIAN for letter in text.get_text()):
            if installed is None:
                names = set(fontManager.get_font_names())
                installed = [font for font in _ASIAN_FONTS if font in names]
            text.set_fontfamily([*text.get_fontfamily(), *installed])

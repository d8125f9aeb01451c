"""A contact sheet shows small images in a grid, with their labels below them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpo.report.style import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 8
ROOM = 20
"""Characters of a name that have room below an image."""

WRONG, RIGHT, UNKNOWN = "#D55E00", "#009E73", "#7F7F7F"
"""Colors of what is known of a label: Okabe and Ito's vermilion and green, and gray."""


def contact_sheet(
    pixels: np.ndarray, given: Sequence[str], true: Sequence[str] | None, heading: str
) -> Figure:
    """Draws images in rows of COLUMNS, framed in the color of what is known of their labels.

    Args:
        pixels: uint8 [n, C, S, S], C 1 or 3, n at least 1.
        given: the n labels that training was given, in words.
        true: the n true ones, or None where nobody knows them.
        heading: what the sheet shows.

    Raises:
        ValueError: shapes do not fit.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        raise ValueError(
            f"pixels must be uint8 [n, 1 or 3, S, S], got {pixels.dtype} {pixels.shape}"
        )
    if not 0 < len(pixels) == len(given):
        raise ValueError(f"got {len(pixels)} images and {len(given)} labels")
    rows = -(-len(pixels) // COLUMNS)
    figure = canvas(1.15 * COLUMNS, 1.5 * rows + 0.4)
    figure.suptitle(_shortened(heading, 6 * ROOM), fontsize=9)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).flat
    for index, ax in enumerate(axes):
        if index >= len(pixels):
            ax.set_axis_off()
            continue
        colors = np.broadcast_to(pixels[index], (3, *pixels.shape[2:])).transpose(1, 2, 0)
        ax.imshow(colors, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        color, verdict = UNKNOWN, ""
        if true is not None:
            right = true[index] == given[index]
            color, verdict = (RIGHT, "right") if right else (WRONG, f"true: {true[index]}")
        ax.spines[:].set(color=color, linewidth=2)
        lines = (f"given: {given[index]}", verdict) if verdict else _two_lines(given[index])
        text = "\n".join(_shortened(line, ROOM) for line in lines)
        ax.set_xlabel(text, color=color, fontsize=7, loc="left")
    return figure


def _two_lines(given: str) -> Sequence[str]:
    """Returns the label on one line, or below its heading where it has no room beside it."""
    line = f"given: {given}"
    return [line] if len(line) <= ROOM else ["given:", given]


def _shortened(text: str, length: int) -> str:
    """Returns the text on one line, or its beginning and its end: names are told apart by both."""
    line = " ".join(text.split())
    begin, end = -(-(length - 1) // 2), (length - 1) // 2
    return line if len(line) <= length else f"{line[:begin]}…{line[-end:]}"

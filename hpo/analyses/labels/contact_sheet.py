"""A contact sheet: small images in rows, with their labels below them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLUMNS = 8
SIDE = 96
"""Pixels that an image is about wide on the sheet; small ones are magnified by a whole number."""

FRAME, GAP, LINE, MARGIN = 3, 9, 15, 12
"""Pixels: of the frame round an image, between tiles, of a line of text, round the sheet."""

WRONG, RIGHT, UNKNOWN = (213, 94, 0), (0, 158, 115), (150, 150, 150)
"""Colours of frames (Okabe and Ito's vermilion and green; grey): what is known of a label."""

_INK, _PAPER = (20, 20, 20), (255, 255, 255)


@dataclass(frozen=True)
class Caption:
    """What stands below an image.

    Attributes:
        given: the label that training was given, in words.
        true: the true one, or None where nobody knows.
    """

    given: str
    true: str | None = None

    @property
    def color(self) -> tuple[int, int, int]:
        """Of the frame and the second line."""
        if self.true is None:
            return UNKNOWN
        return RIGHT if self.true == self.given else WRONG

    @property
    def first(self) -> str:
        """The first line."""
        return f"given: {self.given}"

    @property
    def second(self) -> str:
        """The second line."""
        if self.true is None:
            return ""
        return "right" if self.true == self.given else f"true: {self.true}"


def contact_sheet(pixels: np.ndarray, captions: Sequence[Caption], heading: str) -> Image.Image:
    """Images in rows of COLUMNS, from left to right, each with its caption.

    Args:
        pixels: uint8 [n, C, S, S], C 1 or 3, n at least 1.
        captions: n of them.
        heading: a line at the top, cut where the sheet ends.

    Returns:
        An RGB image. Tile i's pixels begin at `corner(i, S)` and are magnified `scale(S)` times.

    Raises:
        ValueError: shapes do not fit.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        raise ValueError(
            f"pixels must be uint8 [n, 1 or 3, S, S], got {pixels.dtype} {pixels.shape}"
        )
    if not 0 < len(pixels) == len(captions):
        raise ValueError(f"got {len(pixels)} images and {len(captions)} captions")
    size = pixels.shape[-1]
    shown = size * scale(size)
    columns, rows = min(COLUMNS, len(pixels)), -(-len(pixels) // COLUMNS)
    left, top = corner(columns + COLUMNS * (rows - 1) - 1, size)
    width = left + shown + FRAME + MARGIN
    sheet = Image.new("RGB", (width, top + shown + FRAME + 2 * LINE + MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), _cut(draw, heading, width - 2 * MARGIN), _INK, _font())
    for index, (image, caption) in enumerate(zip(pixels, captions, strict=True)):
        x, y = corner(index, size)
        box = (x - FRAME, y - FRAME, x + shown + FRAME - 1, y + shown + FRAME - 1)
        draw.rectangle(box, fill=caption.color)
        colors = np.broadcast_to(image, (3, size, size)).transpose(1, 2, 0)
        tile = Image.fromarray(np.ascontiguousarray(colors))
        sheet.paste(tile.resize((shown, shown), Image.Resampling.NEAREST), (x, y))
        below = y + shown + FRAME
        room = shown + 2 * FRAME
        draw.text((x - FRAME, below), _cut(draw, caption.first, room), _INK, _font())
        second = _cut(draw, caption.second, room)
        draw.text((x - FRAME, below + LINE), second, caption.color, _font())
    return sheet


def scale(size: int) -> int:
    """How many times images of `size` pixels are magnified."""
    return max(1, round(SIDE / size))


def corner(index: int, size: int) -> tuple[int, int]:
    """x and y of the first pixel of tile `index`, for images of `size` pixels."""
    row, column = divmod(index, COLUMNS)
    tile = size * scale(size) + 2 * FRAME + GAP
    x = MARGIN + FRAME + column * tile
    return x, MARGIN + 2 * LINE + FRAME + row * (tile + 2 * LINE)


@cache
def _font() -> ImageFont.FreeTypeFont:
    import matplotlib

    # Pillow has no font with more than Latin letters of its own.
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), 11)


def _cut(draw: ImageDraw.ImageDraw, text: str, room: int) -> str:
    """The text, or as much of it as fits into `room` pixels, with a sign that it was cut."""
    text = " ".join(text.split())
    if draw.textlength(text, _font()) <= room:
        return text
    while text and draw.textlength(f"{text}…", _font()) > room:
        text = text[:-1]
    return f"{text}…"

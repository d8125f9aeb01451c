"""Figures on dark paper: the same picture, its whites and blacks turned round."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER, INK = (0.051, 0.067, 0.090), (0.902, 0.929, 0.953)
"""The dark paper, that of GitHub, and what is written on it."""

_GRAY = 0.06
"""Colors whose channels differ by less are shades of gray."""

_LEAST_CONTRAST = 3.0
"""Of a color with the paper, by WCAG; what is darker is lightened."""

_LESS_FAINT = 0.6
"""The power of the opacity of points and lines: what is faint on white is lost on black."""

_OF_LINES = ("color", "markerfacecolor", "markeredgecolor")
"""Of lines and their markers; text has the first."""

_THEME: ContextVar[str] = ContextVar("theme", default="light")


@contextmanager
def themed(theme: str) -> Iterator[None]:
    """Inside, figures are saved in this theme, "light" or "dark"."""
    token = _THEME.set(theme)
    try:
        yield
    finally:
        _THEME.reset(token)


def in_theme(figure: Figure) -> None:
    """Gives a figure that is drawn the colors of the theme."""
    if _THEME.get() != "dark":
        return
    halos: dict[int, Any] = {}  # of labels, which may share one
    for artist in figure.findobj():
        halos |= {id(effect): effect for effect in artist.get_path_effects() or ()}
        if hasattr(artist, "patch") or getattr(artist, "get_array", lambda: None)() is not None:
            continue  # a patch is an artist too, and colors of an array are those of a scale
        parts = ("facecolor", "edgecolor") if hasattr(artist, "get_facecolor") else _OF_LINES
        colors = {p: getattr(artist, f"get_{p}")() for p in parts if hasattr(artist, f"get_{p}")}
        for part, color in colors.items():
            with suppress(ValueError):  # what is no color, such as "none" of a marker
                getattr(artist, f"set_{part}")(_turned(color))
        if hasattr(artist, "get_marker") and (alpha := artist.get_alpha()):
            artist.set_alpha(alpha**_LESS_FAINT)
    for settings in (getattr(halo, "_gc", {}) for halo in halos.values()):
        if "foreground" in settings:
            settings["foreground"] = _turned(settings["foreground"])


def _turned(color: Any) -> Any:
    """Returns a color, or [n, 4] of them, as it is on dark paper."""
    from matplotlib.colors import to_rgba, to_rgba_array

    if getattr(color, "ndim", 1) == 2 or isinstance(color, list):
        return [_on_dark(one) for one in to_rgba_array(color)]
    return _on_dark(to_rgba(color))


def _on_dark(rgba: Any) -> tuple[float, ...]:
    *rgb, alpha = map(float, rgba)
    if max(rgb) - min(rgb) < _GRAY:
        white = sum(rgb) / 3
        return (*(white * p + (1 - white) * i for p, i in zip(PAPER, INK, strict=True)), alpha)
    while _luminance(rgb) + 0.05 < _LEAST_CONTRAST * (_luminance(PAPER) + 0.05):
        rgb = [0.95 * channel + 0.05 for channel in rgb]
    return (*rgb, alpha)


def _luminance(rgb: Any) -> float:
    """Returns the relative luminance of WCAG 2, in [0, 1]."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

"""Figures on dark paper, and those of the light theme as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpo.report.style import COLORS, canvas, save_figure
from hpo.report.theme import INK, PAPER, themed


def picture(path: Path, theme: str) -> np.ndarray:
    figure = canvas(3, 2)
    ax = figure.add_subplot()
    for at, color in enumerate((*COLORS, "#332288")):
        ax.plot([0, 1], [at, at], color=color, linewidth=6)
    ax.set_title("█████")
    ax.legend(["a row"])
    with themed(theme):
        save_figure(figure, path)
    return np.asarray(Image.open(path).convert("RGB"))


def alike(first: np.ndarray, second: np.ndarray) -> bool:
    """Says whether they are the same pixels but for a few at the edges."""
    return bool(second.sum() > 100 and (first != second).sum() < 0.05 * second.sum())


def test_paper_and_ink_turn_round_and_colors_stay(tmp_path: Path) -> None:
    light, dark = (picture(tmp_path / f"{theme}.png", theme) for theme in ("light", "dark"))
    paper, ink = (np.rint(255 * np.array(color)) for color in (PAPER, INK))
    assert light.shape == dark.shape
    assert (light[0, 0] == 255).all()
    assert (dark[0, 0] == paper).all()
    for colored in ("#0072B2", "#D55E00", "#56B4E9"):
        rgb = [int(colored[i : i + 2], 16) for i in (1, 3, 5)]
        assert alike((light == rgb).all(2), (dark == rgb).all(2))
    assert alike((light == 0).all(2), (dark == ink).all(2))  # title, spines, the black row


@pytest.mark.parametrize("color", ["#332288", "#882255", "#000000", "#7F7F7F"])
def test_no_line_is_too_dark_to_see(color: str, tmp_path: Path) -> None:
    figure = canvas(1, 1)
    ax = figure.add_subplot()
    ax.axhspan(0, 1, color=color)
    ax.set_axis_off()
    with themed("dark"):
        seen = np.asarray(Image.open(save_figure(figure, tmp_path / "a.png")).convert("RGB"))
    linear = (seen[75, 75] / 255) ** 2.2  # near enough to sRGB
    assert (linear @ [0.2126, 0.7152, 0.0722] + 0.05) / (0.0056 + 0.05) > 2.9


def test_points_are_less_faint_on_dark_paper(tmp_path: Path) -> None:
    """Of a white point on black as much is seen as its opacity says: 0.3 to the power of 0.6."""
    figure = canvas(1, 1)
    ax = figure.add_subplot()
    ax.plot(0, 0, "s", ms=30, color="black", alpha=0.3, mew=0)
    ax.set_axis_off()
    with themed("dark"):
        seen = np.asarray(Image.open(save_figure(figure, tmp_path / "a.png")).convert("RGB"))
    paper, ink = (255 * np.array(color) for color in (PAPER, INK))
    np.testing.assert_allclose((seen[75, 75] - paper) / (ink - paper), 0.4856, atol=0.01)

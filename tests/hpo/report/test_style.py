"""Names in figures, whatever is in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from hpo.report.style import canvas, legend_below, save_figure, short_name


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["cost_$5_to_$6", "$x^2_", "a$b$_c", "日本語/画像", "it's \\ %s"])
def test_any_name_is_drawn_and_ticks_stay_formulas(name: str, tmp_path: Path) -> None:
    figure = canvas(3, 2)
    ax = figure.subplots()
    ax.plot([1, 1000], [1, 2], label=name)
    ax.set(title=name, xlabel=name, xscale="log")
    ax.legend(title=name)
    figure.suptitle(name)
    picture = save_figure(figure, tmp_path / "names.png")
    assert ax.title.get_text() == name
    ticks = [label.get_text() for label in ax.get_xticklabels()]
    assert any("10^{2}" in tick for tick in ticks)
    assert all(label.get_parse_math() for label in ax.get_xticklabels())
    assert float(imread(picture)[..., :3].std()) > 0


def test_two_dollar_signs_are_drawn_as_they_are(tmp_path: Path) -> None:
    """The picture is that of the signs escaped by hand."""
    pictures = []
    for name in ("a$b$c", r"a\$b\$c"):
        figure = canvas(2, 1)
        figure.text(0.1, 0.1, name, parse_math="\\" in name)
        if "\\" in name:
            figure.savefig(tmp_path / "p.png", format="png", dpi=150)
        else:
            save_figure(figure, tmp_path / "p.png")
        pictures.append(imread(tmp_path / "p.png"))
    np.testing.assert_array_equal(*pictures)


def test_of_a_long_name_the_end_is_shown() -> None:
    assert short_name("folder:" + "x" * 40 + "birds", 8) == "…xxbirds"
    assert short_name("digits", 8) == "digits"


@pytest.mark.parametrize(("words", "columns"), [(1, 4), (6, 2), (40, 1)])
def test_a_legend_has_as_many_columns_as_have_room(words: int, columns: int) -> None:
    figure = canvas(6.0, 3.0)
    ax = figure.subplots()
    for row in range(4):
        ax.plot([0, 1], [row, row], label=" ".join([f"row{row}"] * words))
    legend_below(figure, [ax], 4)
    (legend,) = figure.legends
    figure.draw_without_rendering()
    assert legend._ncols == columns
    box, page = legend.get_window_extent(), figure.bbox
    assert columns == 1 or page.x0 <= box.x0 < box.x1 <= page.x1
    named = [" ".join([f"row{row}"] * words) for row in range(4)]
    assert [text.get_text() for text in legend.get_texts()] == named


def test_a_legend_names_once_what_any_of_its_panels_has() -> None:
    figure = canvas(6.0, 3.0)
    one, other = figure.subplots(1, 2)
    one.plot([0, 1], label="a")
    other.plot([0, 1], label="a")
    other.plot([1, 0], label="b")
    legend_below(figure, [one, other], 4)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]

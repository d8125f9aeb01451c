from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpo.analyses.labels.contact_sheet import COLUMNS, RIGHT, UNKNOWN, WRONG, contact_sheet
from hpo.report.style import save_figure


def test_every_image_stands_in_its_place_with_what_is_known_of_its_label(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 3, 8, 8), dtype=np.uint8)
    given, true = ["cat"] * 10, ["cat", "dog"] * 5
    figure = contact_sheet(pixels, given, true, "ten\nimages")
    shown = [ax for ax in figure.axes if ax.images]
    assert len(shown) == 10
    assert shown == figure.axes[:10]
    for ax, image, name in zip(shown, pixels, true, strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), image.transpose(1, 2, 0))
        color, text = (RIGHT, "right") if name == "cat" else (WRONG, "true: dog")
        assert {spine.get_edgecolor() for spine in ax.spines.values()} == {
            (*(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)), 1.0)
        }
        assert ax.get_xlabel() == f"given: cat\n{text}"
        assert ax.xaxis.label.get_color() == color
    places = [ax.get_subplotspec().colspan.start for ax in shown]
    assert places == [*range(COLUMNS), 0, 1]
    assert figure.get_suptitle() == "ten images"
    assert save_figure(figure, tmp_path / "sheet.png").stat().st_size > 0


def test_gray_images_of_which_nothing_is_known_and_long_names() -> None:
    pixels = np.full((1, 1, 14, 14), 77, np.uint8)
    name = "a very long\nname of $a class$ that no tile can hold"
    ax = contact_sheet(pixels, [name], None, "").axes[0]
    np.testing.assert_array_equal(ax.images[0].get_array(), np.full((14, 14, 3), 77))
    assert ax.get_xlabel() == "given:\na very lon… can hold"
    assert ax.xaxis.label.get_color() == UNKNOWN


@pytest.mark.parametrize(
    ("shape", "dtype", "labels", "message"),
    [
        ((1, 1, 4, 4), np.float32, 1, "must be uint8"),
        ((1, 2, 4, 4), np.uint8, 1, "1 or 3"),
        ((4, 4), np.uint8, 1, "1 or 3"),
        ((2, 1, 4, 4), np.uint8, 1, "2 images and 1 labels"),
        ((0, 1, 4, 4), np.uint8, 0, "0 images"),
    ],
)
def test_bad_input(shape: tuple[int, ...], dtype: type, labels: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contact_sheet(np.zeros(shape, dtype), ["a"] * labels, None, "")

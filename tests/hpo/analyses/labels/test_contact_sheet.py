from __future__ import annotations

import numpy as np
import pytest

from hpo.analyses.labels.contact_sheet import (
    FRAME,
    LINE,
    RIGHT,
    UNKNOWN,
    WRONG,
    Caption,
    contact_sheet,
    corner,
    scale,
)


def test_every_image_stands_in_its_place_pixel_by_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 3, 8, 8), dtype=np.uint8)
    sheet = np.asarray(contact_sheet(pixels, [Caption("a")] * 10, "heading"))
    assert scale(8) == 12
    for index, image in enumerate(pixels):
        x, y = corner(index, 8)
        shown = sheet[y : y + 96, x : x + 96]
        np.testing.assert_array_equal(
            shown, np.kron(image.transpose(1, 2, 0), np.ones((12, 12, 1)))
        )
    # Eight in the first row, from left to right, two in the second.
    places = [corner(index, 8) for index in range(10)]
    assert len({y for _, y in places[:8]}) == 1
    assert [x for x, _ in places[:8]] == sorted({x for x, _ in places})
    assert [x for x, _ in places[8:]] == [x for x, _ in places[:2]]
    assert places[8][1] > places[0][1] + 96 + 2 * LINE
    assert sheet.shape[1] > places[7][0] + 96 + FRAME
    assert sheet.shape[0] > places[9][1] + 96 + FRAME + 2 * LINE


def test_gray_images_and_the_colours_of_what_is_known() -> None:
    pixels = np.full((3, 1, 14, 14), 77, np.uint8)
    captions = [Caption("cat", "dog"), Caption("cat", "cat"), Caption("cat")]
    sheet = np.asarray(contact_sheet(pixels, captions, ""))
    for index, color in enumerate((WRONG, RIGHT, UNKNOWN)):
        x, y = corner(index, 14)
        side = 14 * scale(14)
        assert (sheet[y : y + side, x : x + side] == 77).all()
        frame = sheet[y - FRAME : y + side + FRAME, x - FRAME : x + side + FRAME].copy()
        frame[FRAME:-FRAME, FRAME:-FRAME] = color
        assert (frame == color).all()
        # Its own colour is used in the second line below, where there is one.
        line = sheet[y + side + FRAME + LINE :, x - FRAME : x + side + FRAME]
        assert (line == color).all(axis=2).any() == (color != UNKNOWN)


def test_what_a_caption_says() -> None:
    assert Caption("cat", "dog").first == "given: cat"
    assert Caption("cat", "dog").second == "true: dog"
    assert Caption("cat", "cat").second == "right"
    assert Caption("cat").second == ""


def ink(name: str) -> np.ndarray:
    """Where something is written in the first line below a single image."""
    pixels = np.zeros((1, 1, 96, 96), np.uint8)
    sheet = np.asarray(contact_sheet(pixels, [Caption(name)], "")).min(axis=2)
    below = corner(0, 96)[1] + 96 + FRAME
    return np.argwhere(sheet[below : below + LINE] < 128)


def test_long_names_are_cut_within_their_tile() -> None:
    left, right = corner(0, 96)[0] - FRAME, corner(0, 96)[0] + 96 + FRAME
    for name in ("x", "a very long name of a class that no tile can hold"):
        columns = ink(name)[:, 1]
        assert left <= columns.min()
        assert columns.max() < right
    assert len(ink("Müllerstraße 你")) > len(ink("M"))
    # Spaces and line ends of a name do not leave its line.
    np.testing.assert_array_equal(ink("two\nlines"), ink("two lines"))


def test_large_images_keep_their_size() -> None:
    assert [scale(size) for size in (28, 32, 100, 500)] == [3, 3, 1, 1]


@pytest.mark.parametrize(
    ("shape", "dtype", "captions", "message"),
    [
        ((1, 1, 4, 4), np.float32, 1, "must be uint8"),
        ((1, 2, 4, 4), np.uint8, 1, "1 or 3"),
        ((4, 4), np.uint8, 1, "1 or 3"),
        ((2, 1, 4, 4), np.uint8, 1, "2 images and 1 captions"),
        ((0, 1, 4, 4), np.uint8, 0, "0 images"),
    ],
)
def test_bad_input(shape: tuple[int, ...], dtype: type, captions: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contact_sheet(np.zeros(shape, dtype), [Caption("a")] * captions, "")

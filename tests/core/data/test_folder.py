from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.data import DataFileError, Source, load_source

WriteTree = Callable[..., np.ndarray]


def load(path: Path, **options: int) -> Source:
    return load_source(f"folder:{path}", **options)  # type: ignore[arg-type]


def test_classes_and_files_are_sorted(tmp_path: Path, write_tree: WriteTree) -> None:
    train = write_tree("train")  # bee first, then ant
    test = write_tree("test", each=2, seed=1)
    source = load(tmp_path)
    assert source.classes == ("ant", "bee")
    assert (source.in_channels, source.image_size) == (3, 6)
    assert source.train_labels.tolist() == [0] * 4 + [1] * 4
    expected = np.concatenate([train[4:], train[:4]]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(source.train_data, expected)
    expected = np.concatenate([test[2:], test[:2]]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(source.test_data, expected)


def test_training_files_are_told_in_the_order_of_the_images(
    tmp_path: Path, write_tree: WriteTree
) -> None:
    write_tree("train", each=2)
    write_tree("test", each=1)
    for options in ({}, {"memory_limit": 0}):
        files = load(tmp_path, **options).train_files
        assert files is not None
        assert [*files] == [
            f"train/{name}/{i:03d}.png".encode() for name in ("ant", "bee") for i in range(2)
        ]


def test_suffixes_in_any_case_and_strangers_passed_over(
    tmp_path: Path, write_tree: WriteTree
) -> None:
    for i, suffix in enumerate((".png", ".PNG", ".jpg", ".JPeG", ".bmp", ".webp")):
        write_tree("train", ("ant", "bee", "cat")[i % 3 : i % 3 + 1], 1, suffix=suffix, seed=i)
    write_tree("test", ("bee",))
    (tmp_path / "train" / "ant" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / "ant" / ".hidden.png").write_text("not an image")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "readme.md").write_text("not a folder")
    source = load(tmp_path)
    assert source.classes == ("ant", "bee", "cat")
    # 000.png and 000.PNG lie in different classes: ant, bee; each class got two files.
    assert np.bincount(source.train_labels).tolist() == [2, 2, 2]
    assert set(source.test_labels.tolist()) == {1}


def test_gray_only_while_every_file_is(tmp_path: Path, write_tree: WriteTree) -> None:
    train = write_tree("train", mode="L")
    write_tree("test", mode="L", each=1)
    source = load(tmp_path)
    assert source.in_channels == 1
    assert isinstance(source.train_data, np.ndarray)
    np.testing.assert_array_equal(source.train_data[4:, 0], train[:4])
    write_tree("test", ("ant",), each=1)  # one file in color makes all three-channel
    source = load(tmp_path)
    assert source.in_channels == 3
    assert isinstance(source.train_data, np.ndarray)
    np.testing.assert_array_equal(source.train_data[4:, 2], train[:4])


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(np.full((6, 6), 0xABCD, np.uint16)), [0xAB]),
        (Image.new("1", (6, 6), 1), [255]),
        (Image.new("LA", (6, 6), (9, 0)), [9]),
        (Image.new("RGBA", (6, 6), (1, 2, 3, 0)), [1, 2, 3]),
    ],
)
def test_pixel_modes(
    tmp_path: Path, write_tree: WriteTree, image: Image.Image, expected: list[int]
) -> None:
    write_tree("train", mode="L")
    write_tree("test", mode="L", each=1)
    image.save(tmp_path / "test" / "ant" / "000.png")
    source = load(tmp_path)
    assert isinstance(source.test_data, np.ndarray)
    assert source.test_data[0, :, 3, 3].tolist() == expected


def test_palette_with_transparency_loses_it_without_a_warning(
    tmp_path: Path, write_tree: WriteTree
) -> None:
    write_tree("train")
    write_tree("test", each=1)
    image = Image.new("P", (6, 6), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.save(tmp_path / "test" / "ant" / "000.png", transparency=b"\x00\x80")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = load(tmp_path)
    assert isinstance(source.test_data, np.ndarray)
    assert source.test_data[0, :, 0, 0].tolist() == [200, 100, 50]


def test_image_size_shrinks_images_of_one_size(tmp_path: Path, write_tree: WriteTree) -> None:
    train = write_tree("train", mode="L")
    write_tree("test", mode="L")
    source = load(tmp_path, image_size=3)
    blocks = train[:4].astype(float).reshape(4, 3, 2, 3, 2).mean(axis=(2, 4))
    assert isinstance(source.train_data, np.ndarray)
    np.testing.assert_array_equal(source.train_data[4:, 0], np.rint(blocks))


def test_image_size_crops_images_of_other_shapes_to_the_centre(
    tmp_path: Path, write_tree: WriteTree
) -> None:
    write_tree("train", mode="L")
    write_tree("test", mode="L")
    # Black, a white square in the middle, black: the crop is the white square.
    strip = np.zeros((10, 30), np.uint8)
    strip[:, 10:20] = 255
    Image.fromarray(strip).save(tmp_path / "train" / "ant" / "000.png")
    source = load(tmp_path, image_size=5)
    assert source.image_size == 5
    assert isinstance(source.train_data, np.ndarray)
    # (resizing blurs its edges by a pixel)
    assert source.train_data[0, 0, :, 1:-1].min() == 255
    assert source.train_data[0].min() > 200
    # Larger than the files: resized up.
    assert load(tmp_path, image_size=12).image_size == 12


# ------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("part", ["train", "test"])
def test_missing_parts_are_named(tmp_path: Path, write_tree: WriteTree, part: str) -> None:
    write_tree("train")
    write_tree("test")
    shutil.rmtree(tmp_path / part)
    with pytest.raises(FileNotFoundError, match=f"{tmp_path / part} is no folder"):
        load(tmp_path)
    (tmp_path / part).mkdir()
    with pytest.raises(FileNotFoundError, match=f"{tmp_path / part} holds no class folder"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"{tmp_path / 'nowhere'} is no folder"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_empty_class_folder_is_named(tmp_path: Path, write_tree: WriteTree, part: str) -> None:
    write_tree("train")
    write_tree("test")
    for file in (tmp_path / part / "bee").iterdir():
        file.rename(file.with_suffix(".txt"))
    with pytest.raises(ValueError, match=f"class folder {tmp_path / part / 'bee'} holds no image"):
        load(tmp_path)


def test_a_test_class_that_is_not_trained_is_named(tmp_path: Path, write_tree: WriteTree) -> None:
    write_tree("train")
    write_tree("test", ("ant", "cow"))
    with pytest.raises(ValueError, match=r"class 'cow' of .*test is not among .* \(ant, bee\)"):
        load(tmp_path)


def test_one_class_is_not_enough(tmp_path: Path, write_tree: WriteTree) -> None:
    write_tree("train", ("ant",))
    write_tree("test", ("ant",))
    with pytest.raises(ValueError, match="holds the class 'ant' only"):
        load(tmp_path)


def test_the_odd_size_is_named(tmp_path: Path, write_tree: WriteTree) -> None:
    write_tree("train")
    write_tree("test")
    write_tree("train", ("ant",), each=1, size=(8, 6))  # the first file that is read
    odd = tmp_path / "train" / "ant" / "000.png"
    with pytest.raises(ValueError, match=rf"{odd} is 8x6, 15 of 16 .* 6x6; pass image_size"):
        load(tmp_path)


def test_images_that_are_not_square(tmp_path: Path, write_tree: WriteTree) -> None:
    write_tree("train", size=(8, 6))
    write_tree("test", size=(8, 6))
    with pytest.raises(ValueError, match=r"must be square: .* is 8x6; pass image_size"):
        load(tmp_path)


@pytest.mark.parametrize("limit", [0, 10**9])
def test_files_that_are_no_images_are_named_five_at_a_time(
    tmp_path: Path, write_tree: WriteTree, limit: int
) -> None:
    write_tree("train")
    write_tree("test")
    for file in (tmp_path / "train").rglob("00[0-2].png"):
        file.write_text("<html>")
    with pytest.raises(DataFileError, match=r"6 image file\(s\) .*; and 1 more; rep") as caught:
        load(tmp_path, memory_limit=limit)
    assert str(caught.value).count(".png (") == 5
    assert str(tmp_path / "train" / "ant" / "001.png") in str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
def test_truncated_images_are_named(tmp_path: Path, write_tree: WriteTree, suffix: str) -> None:
    write_tree("train", size=(40, 40), suffix=suffix)
    write_tree("test", size=(40, 40), suffix=suffix)
    for name in ("ant/002", "bee/003"):
        file = tmp_path / "test" / f"{name}{suffix}"
        file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(DataFileError, match=r"2 image file\(s\) cannot be decoded") as caught:
        load(tmp_path)
    assert f"ant/002{suffix}" in str(caught.value)
    assert f"bee/003{suffix}" in str(caught.value)

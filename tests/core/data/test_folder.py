from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.data import DataFileError, Source, load_source
from core.data.splits import make_splits

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


def test_what_is_passed_over_is_told(tmp_path: Path, write_tree: WriteTree) -> None:
    write_tree("train", ("ant", "bee", "cat"))
    write_tree("test", ("ant", "cat"), each=2)
    for i in range(3):
        (tmp_path / "train" / "bee" / f"{i}.tif").write_bytes(b"")
    (tmp_path / "test" / "cat" / "LICENSE").write_bytes(b"")
    (tmp_path / "train" / "cat" / "sub").mkdir()
    (tmp_path / "train" / "cat" / "000.png").rename(tmp_path / "train" / "cat" / "sub" / "0.png")
    (tmp_path / "train" / "loose.png").write_bytes(b"")
    assert load(tmp_path).description == (
        f"folder:{tmp_path}: 3 classes, 11 training and 4 test images; no test image of class bee; "
        "passed over: 1 .png in train, 3 .tif in train/bee, 1 files in train/cat/sub, "
        "1 without suffix in test/cat"
    )


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_link_to_a_folder_that_is_not_there_is_named(
    tmp_path: Path, write_tree: WriteTree, part: str
) -> None:
    write_tree("train")
    write_tree("test")
    (tmp_path / part / "cat").symlink_to("/not/mounted/cat")
    with pytest.raises(FileNotFoundError, match=r"/cat is a link to /not/mounted/cat, which"):
        load(tmp_path)


def test_a_class_whose_images_all_went_elsewhere_is_refused(
    tmp_path: Path, write_tree: WriteTree
) -> None:
    write_tree("train", ("ant", "bee"))
    write_tree("train", ("cat",), each=1)
    write_tree("test", ("ant",), each=1)
    source = load(tmp_path)
    with pytest.raises(ValueError, match=r"no training image is left of .*choose"):
        make_splits(source.train_labels, 3, meta_size=3, seed=0, classes=source.classes)


@pytest.mark.parametrize("bits", [8, 10, 12, 16, 20])
def test_files_with_more_than_8_bits_keep_the_upper_eight_that_the_training_part_uses(
    tmp_path: Path, write_tree: WriteTree, bits: int
) -> None:
    """The same drawing on any scale gives the same pixels; brighter test pixels are white."""
    write_tree("test", mode="L", each=1)
    drawing = write_tree("train", mode="L").astype(np.int64)
    drawing[0, 0, 0] = 255
    kind = np.uint16 if bits <= 16 else np.int32
    suffix = ".png" if bits <= 16 else ".tif"
    paths = sorted((tmp_path / "train").rglob("*.png"), key=lambda p: (p.parent.name != "bee", p))
    for path, pixels in zip(paths, drawing, strict=True):
        image = Image.fromarray((pixels * 2 ** (bits - 8)).astype(kind))
        image.save(path, format="PNG" if suffix == ".png" else "TIFF")
    bright = Image.fromarray(np.full((6, 6), min(2**bits, 2**16 - 1)).astype(np.uint16))
    bright.save(tmp_path / "test" / "ant" / "000.png")
    source = load(tmp_path)
    assert isinstance(source.train_data, np.ndarray)
    assert isinstance(source.test_data, np.ndarray)
    np.testing.assert_array_equal(source.train_data[:, 0], np.roll(drawing, 4, axis=0))
    if bits < 16:
        assert set(source.test_data[0].ravel().tolist()) == {255}


def test_drawings_in_the_alpha_channel_alone_are_refused(
    tmp_path: Path, write_tree: WriteTree
) -> None:
    write_tree("train")
    write_tree("test", each=1)
    for path in (tmp_path / "train").rglob("*.png"):
        image = Image.new("RGBA", (6, 6))
        image.putalpha(Image.open(path).convert("L"))
        image.save(path)
    with pytest.raises(ValueError, match=r"every pixel .* is 0; transparency is dropped"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("orientation", "kind"), [*((i, "JPEG") for i in range(1, 9)), (6, "PNG"), (6, "WEBP")]
)
def test_images_are_turned_as_a_viewer_turns_them(
    tmp_path: Path, write_tree: WriteTree, orientation: int, kind: str
) -> None:
    """Rows and columns by hand, from the table of the EXIF standard; all files one size upright."""
    write_tree("train", size=(6, 6))
    write_tree("test", each=1, size=(6, 6))
    upright = np.zeros((6, 6, 3), np.uint8)
    upright[:3, :3], upright[:3, 3:], upright[3:, :3] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    as_stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }
    exif = Image.Exif()
    exif[274] = orientation
    stored = Image.fromarray(np.ascontiguousarray(as_stored[orientation]))
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    stored.save(tmp_path / "test" / "ant" / "000.png", format=kind, exif=exif, **options)
    source = load(tmp_path)
    assert isinstance(source.test_data, np.ndarray)
    seen = source.test_data[0].transpose(1, 2, 0).astype(int)
    for row, column in ((0, 0), (0, 5), (5, 0), (5, 5)):
        assert np.abs(seen[row, column] - upright[row, column]).max() < 60


def test_a_class_with_bytes_that_are_not_utf8_has_a_name_that_can_be_written(
    tmp_path: Path, write_tree: WriteTree
) -> None:
    write_tree("train")
    write_tree("test", each=1)
    for part in ("train", "test"):
        folder = os.fsencode(tmp_path / part)
        os.rename(folder + b"/ant", folder + b"/ant\xff")
    assert load(tmp_path).classes == ("ant\\udcff", "bee")


def test_names_that_differ_in_unicode_form_only(tmp_path: Path, write_tree: WriteTree) -> None:
    write_tree("train", ("cafe\u0301", "bee"))
    write_tree("test", ("caf\u00e9",))
    with pytest.raises(ValueError, match=r"differ in Unicode form only .*caf\\xe9.*cafe\\u0301"):
        load(tmp_path)

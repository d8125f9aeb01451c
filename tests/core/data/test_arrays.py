from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from core.data import source_from_arrays

rng = np.random.default_rng(0)
X = rng.integers(0, 256, (12, 3, 4, 4), dtype=np.uint8)
Y = np.arange(12) % 3


def test_arrays_become_a_source() -> None:
    source = source_from_arrays("mine", X, Y, X[:6], Y[:6].astype(np.int32), ["a", "b", "c"])
    assert (source.name, source.classes) == ("mine", ("a", "b", "c"))
    assert (source.in_channels, source.image_size, source.num_classes) == (3, 4, 3)
    assert source.train_labels.dtype == source.test_labels.dtype == np.int64
    assert source.train_data is X  # not copied


def test_gray_floats_and_tensors() -> None:
    gray = torch.rand(12, 4, 4)
    source = source_from_arrays("mine", gray, torch.from_numpy(Y), gray, Y)
    assert source.in_channels == 1
    assert source.classes == ("0", "1", "2")
    assert isinstance(source.train_data, np.ndarray)
    np.testing.assert_array_equal(source.train_data[:, 0], np.rint(gray.numpy() * 255))


def changed(array: np.ndarray, index: Any, value: float) -> np.ndarray:
    copy = array.copy()
    copy[index] = value
    return copy


FLOATS = X / 255


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        (
            {"train_images": changed(FLOATS, (3, 1, 2, 0), np.nan)},
            r"train_images: pixel nan at \(image, channel, row, column\) \(3, 1, 2, 0\)",
        ),
        (
            {"test_images": changed(FLOATS, (0, 2, 0, 1), 1.5)},
            r"test_images: pixel 1\.5 at .* \(0, 2, 0, 1\) lies outside \[0, 1\]",
        ),
        ({"train_images": X.astype(np.int64)}, "must be uint8 or floating point .* got int64"),
        ({"train_images": X[:, :, :3]}, r"\(square\), got \(12, 3, 3, 4\)"),
        (
            {"train_images": X.transpose(0, 2, 3, 1)},
            r"got \(12, 4, 4, 3\); move the channels forward",
        ),
        ({"train_images": X[:5]}, "train_images holds 5 images for 12 labels"),
        ({"test_images": X[:, :1]}, r"training images are \(3, 4, 4\).*test images \(1, 4, 4\)"),
        ({"train_labels": changed(Y, 7, 3)}, r"train_labels\[7\] is 3, must lie in 0\.\.2"),
        ({"test_labels": changed(Y, 2, -1)}, r"test_labels\[2\] is -1, must lie in 0\.\.2"),
        ({"train_labels": Y / 1.0}, "train_labels must be integers .* got float64"),
        ({"train_labels": Y[:, None]}, r"got int64 \(12, 1\)"),
        ({"test_labels": Y[:0]}, "test_labels must be integers .* N >= 1"),
        ({"train_labels": Y * 0}, r"class 1 \('b'\) has no training image"),
        ({"classes": ["a"]}, "needs 2 classes or more, got 1"),
        ({"classes": ["a", "b", "a"]}, "class names must differ"),
    ],
)
def test_errors_name_index_and_value(replaced: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "train_images": X,
        "train_labels": Y,
        "test_images": X,
        "test_labels": Y,
        "classes": ["a", "b", "c"],
    }
    with pytest.raises(ValueError, match=message):
        source_from_arrays("mine", **{**arguments, **replaced})


def test_the_fingerprint_tells_data_apart_and_nothing_else() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4), dtype=np.uint8)
    labels = np.array([0, 1, 0, 1, 0, 1])

    def fingerprint(images: np.ndarray, targets: np.ndarray) -> str:
        return source_from_arrays("mine", images, targets, pixels, labels).fingerprint()

    same = fingerprint(pixels, labels)
    assert re.fullmatch("[0-9a-f]{16}", same)
    assert fingerprint(pixels.copy(), labels.astype(np.int32)) == same
    other = pixels.copy()
    other[3, 2, 1] ^= 1
    assert fingerprint(other, labels) != same
    assert fingerprint(pixels, labels[::-1].copy()) != same

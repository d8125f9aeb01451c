"""This module makes a source of the user's own arrays, checked value by value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from core.data.source import Source
from core.data.sources import make_source

__all__ = ["source_from_arrays"]


def source_from_arrays(
    name: str,
    train_images: ArrayLike,
    train_labels: ArrayLike,
    test_images: ArrayLike,
    test_labels: ArrayLike,
    classes: Sequence[str] | None = None,
) -> Source:
    """Makes a source of arrays (or CPU tensors) of any origin.

    Images are [N, S, S] (gray) or [N, C, S, S], uint8 or floating point in [0, 1], which is rounded
    to 255 steps; labels are integers [N] in 0..len(classes)-1. Without classes there are as many as
    the largest training label says, named by their numbers. uint8 arrays are kept, not copied.

    Raises ValueError naming index and value for NaN or pixels outside [0, 1], labels outside the
    range, classes without a training image, and wrong dtypes, shapes or counts.

    Examples:
        >>> import numpy as np
        >>> from core.data import source_from_arrays
        >>> images, labels = np.zeros((6, 8, 8), np.uint8), np.arange(6) % 3
        >>> source = source_from_arrays("mine", images, labels, images, labels)

        >>> source.num_classes, source.in_channels, source.image_size
        (3, 1, 8)
    """
    train_y = _labels("train_labels", train_labels)
    test_y = _labels("test_labels", test_labels)
    names = tuple(map(str, range(int(train_y.max()) + 1)) if classes is None else map(str, classes))
    if len(names) < 2:
        raise ValueError(f"a classifier needs 2 classes or more, got {len(names)}: {names}")
    if len(set(names)) < len(names):
        raise ValueError(f"class names must differ, got {names}")
    for what, labels in (("train_labels", train_y), ("test_labels", test_y)):
        wrong = np.flatnonzero((labels < 0) | (labels >= len(names)))
        if wrong.size:
            index = int(wrong[0])
            raise ValueError(f"{what}[{index}] is {labels[index]}, must lie in 0..{len(names) - 1}")
    counts = np.bincount(train_y, minlength=len(names))
    if not counts.all():
        empty = int(np.argmin(counts))
        raise ValueError(f"class {empty} ({names[empty]!r}) has no training image")
    train_x = _images("train_images", train_images, len(train_y))
    test_x = _images("test_images", test_images, len(test_y))
    if train_x.shape[1:] != test_x.shape[1:]:
        raise ValueError(
            f"training images are {train_x.shape[1:]} (C, H, W), test images {test_x.shape[1:]}; "
            "they must agree"
        )
    return make_source(name, (train_x, train_y), (test_x, test_y), names)


def _labels(what: str, given: ArrayLike) -> np.ndarray:
    labels = np.asarray(given)
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or not len(labels):
        raise ValueError(
            f"{what} must be integers [N] with N >= 1, got {labels.dtype} {labels.shape}"
        )
    return np.ascontiguousarray(labels, np.int64)


def _images(what: str, given: ArrayLike, count: int) -> np.ndarray:
    images = np.asarray(given)
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or images.shape[2] != images.shape[3] or 0 in images.shape:
        hint = ""
        if images.ndim == 4 and images.shape[1] == images.shape[2]:
            hint = "; move the channels forward: images.transpose(0, 3, 1, 2)"
        raise ValueError(
            f"{what} must be [N, S, S] or [N, C, S, S] (square), got {np.shape(given)}{hint}"
        )
    if len(images) != count:
        raise ValueError(f"{what} holds {len(images)} images for {count} labels")
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    if images.dtype.kind != "f":
        raise ValueError(f"{what} must be uint8 or floating point in [0, 1], got {images.dtype}")
    inside = (images >= 0) & (images <= 1)  # False for NaN as well
    if not inside.all():
        index = tuple(int(i) for i in np.argwhere(~inside)[0])
        raise ValueError(
            f"{what}: pixel {images[index]} at (image, channel, row, column) {index} "
            "lies outside [0, 1]; scale to [0, 1], or give uint8"
        )
    return np.rint(images * 255).astype(np.uint8)

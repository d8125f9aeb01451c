"""This module loads a data set by its name, or makes one of a user's own objects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from core.data.catalog import DATASETS, default_root
from core.data.decoding import Decoder, bits_used, decode_tree
from core.data.images import shrink, wrap
from core.data.imported import called
from core.data.own import read_own
from core.data.published import load_published
from core.data.source import FileImages, Source
from core.data.tree import Headers, printable, read_headers, scan_tree

__all__ = ["MEMORY_LIMIT", "Source", "load_source", "make_source", "own_source"]

MEMORY_LIMIT = 4 * 2**30
"""Bytes of pixels up to which a folder of images is loaded into memory."""

_FOLDER = "folder:"


def load_source(
    name: str,
    *,
    root: Path | None = None,
    image_size: int | None = None,
    download: bool = True,
    memory_limit: int = MEMORY_LIMIT,
) -> Source:
    """Loads a data set by name: one of `DATASETS`, "folder:PATH", or a factory; see `read_own`.

    root is the folder of data sets in torchvision's own layout, by default `default_root()`. What
    is not there is downloaded to it (unless download is False), except ImageNet. Fashion-MNIST is
    also found where Debian's package puts it, and digits comes with scikit-learn.

    image_size asks for smaller images: area-averaged, rounded to uint8. ImageNet is cropped to
    image_size directly (default 100): in training a random crop, when the batches get a generator;
    otherwise the center after resizing the shorter side to 1.14 x image_size, the usual 256/224.

    folder:PATH reads PATH/train/CLASS/* and PATH/test/CLASS/* (png, jpg, jpeg, bmp, webp). All
    images must be square and of one size, unless image_size is given: then images of other shapes
    are resized by their shorter side and cropped to the center. They are RGB as soon as one of them
    is. Up to memory_limit bytes of pixels are held in memory, more is decoded during training, with
    the same result.

    Raises FileNotFoundError naming the missing files, `DataFileError` (a ValueError) naming a
    damaged one, and ValueError for an unknown name or a size that does not fit.

    Examples:
        >>> from core.data import load_source
        >>> load_source("digits", image_size=4).image_size
        4
    """
    if root is not None and not str(root).strip():
        raise ValueError("root names no folder (it is empty); leave it out for the default")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size must be >= 1 pixel, got {image_size}")
    if name.startswith(_FOLDER):
        return _load_folder(name, image_size, memory_limit)
    if ":" in name:
        return own_source(
            name, called(name, root=root), image_size=image_size, memory_limit=memory_limit
        )
    if name not in DATASETS:
        raise ValueError(
            f"unknown data set {name!r}; choose one of {', '.join(DATASETS)}, folder:PATH, or "
            "package.module:factory"
        )
    root = default_root() if root is None else Path(root).expanduser().absolute()
    if name == "imagenet":
        return _load_imagenet(root, image_size)
    data = load_published(name, root, download)
    return make_source(name, *data, image_size=image_size)


def own_source(
    name: str, given: Any, *, image_size: int | None = None, memory_limit: int = MEMORY_LIMIT
) -> Source:
    """Makes a source of (train, test): Datasets, or pairs of arrays; see `read_own`.

    Raises ValueError, with this name in its message, where they are no data set to classify.
    """
    train, test, classes = read_own(name, given, memory_limit)
    first = train[0]
    shape = first.shape[1:] if isinstance(first, np.ndarray) else first.shape
    side = shape[1] if len(shape) > 1 else 1
    images = first.dtype == np.uint8 if isinstance(first, np.ndarray) else first.images
    if image_size is not None:
        if not images:
            raise ValueError(f"image_size={image_size}: {name} holds features, no images")
        side = _smaller(name, side, image_size)
        train, test = ((_shrunk(x, side), y) for x, y in (train, test))
    return Source(name, classes, shape[0], side, train[1], test[1], train[0], test[0])


def make_source(
    name: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    classes: tuple[str, ...],
    *,
    image_size: int | None = None,
) -> Source:
    """Makes a source of checked (uint8 [N, C, S, S], int64 [N]) pairs, shrunk to image_size."""
    size = train[0].shape[-1] if image_size is None else image_size
    _smaller(name, train[0].shape[-1], size)
    channels = train[0].shape[1]
    pixels = [_shrunk(train[0], size), _shrunk(test[0], size)]
    return Source(name, classes, channels, size, train[1], test[1], pixels[0], pixels[1])


def _smaller(name: str, native: int, size: int) -> int:
    """Returns size; raises ValueError where it is above the images' own."""
    if size > native:
        raise ValueError(
            f"image_size={size} is larger than the {native} pixels of {name}; "
            "images are only shrunk"
        )
    return size


def _shrunk(items: Any, size: int) -> Any:
    """Returns arrays of images at this size; what is streamed is shrunk when its turn comes."""
    if not isinstance(items, np.ndarray) or items.shape[-1] == size:
        return items
    return shrink(wrap(items), size).numpy()


def _load_imagenet(root: Path, image_size: int | None) -> Source:
    size = image_size or DATASETS["imagenet"].image_size
    folder = root / "imagenet"
    missing = [part for part in ("train", "val") if not (folder / part).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"imagenet: {folder} lacks {' and '.join(missing)}; ImageNet is never downloaded. Lay "
            f"ILSVRC2012 out as {folder}/train/WNID/*.JPEG and {folder}/val/WNID/*.JPEG, with a "
            "folder for each of the 1000 classes (WNID as in n01440764)"
        )
    train = scan_tree(folder, "train")
    test = scan_tree(folder, "val", known=train.classes)
    decoder = Decoder(channels=3, size=size, shorter_side=round(size * 256 / 224))
    return Source(
        "imagenet",
        train.classes,
        3,
        size,
        train.labels,
        test.labels,
        FileImages(train, decoder, random_crops=True),
        FileImages(test, decoder, random_crops=False),
        train.names,
    )


def _load_folder(name: str, image_size: int | None, memory_limit: int) -> Source:
    root = Path(name.removeprefix(_FOLDER)).expanduser().absolute()
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root} is no folder; {_FOLDER}PATH needs PATH/train/CLASS and PATH/test/CLASS"
        )
    train = scan_tree(root, "train")
    test = scan_tree(root, "test", known=train.classes)
    if len(train.classes) < 2:
        raise ValueError(f"{root}/train holds the class {train.classes[0]!r} only, needs 2 or more")
    headers = [read_headers(train), read_headers(test)]
    decoder = _folder_decoder(headers, image_size)
    if headers[0].deep:
        decoder = replace(decoder, drop_bits=max(0, bits_used(train) - 8))
    size = image_size or decoder.size
    count = len(train.names) + len(test.names)
    in_files = count * decoder.channels * size**2 > memory_limit
    train_data, test_data = (
        FileImages(part, decoder, random_crops=False)
        if in_files
        else decode_tree(decoder, part, size)
        for part in (train, test)
    )
    if isinstance(train_data, np.ndarray) and (train_data == train_data.flat[0]).all():
        raise ValueError(
            f"every pixel of the training images of {root} is {train_data.flat[0]}; transparency "
            "is dropped, so a drawing in the alpha channel alone has to be put on a background"
        )
    return Source(
        name,
        tuple(map(printable, train.classes)),
        decoder.channels,
        size,
        train.labels,
        test.labels,
        train_data,
        test_data,
        train.names,
        train.passed_over + test.passed_over,
        headers[0].turned + headers[1].turned,
    )


def _folder_decoder(headers: list[Headers], image_size: int | None) -> Decoder:
    """Returns one of whole images where all are square and of one size, else one of crops."""
    channels = 1 if all(part.gray for part in headers) else 3
    sizes = headers[0].sizes + headers[1].sizes
    (common, _), *others = sizes.most_common()
    width, height = common
    if not others and width == height and (image_size is None or image_size <= width):
        return Decoder(channels, width)
    if image_size is not None:
        return Decoder(channels, image_size, shorter_side=image_size)
    example = {**headers[1].example, **headers[0].example}
    fault = f"square: {example[common]} is {width}x{height}"
    if others:
        odd = others[-1][0]
        fault = (
            f"of one size: {example[odd]} is {odd[0]}x{odd[1]}, {sizes[common]} of "
            f"{sum(sizes.values())} images are {width}x{height}"
        )
    raise ValueError(
        f"images must be {fault}; pass image_size to have all resized and cropped to one square"
    )

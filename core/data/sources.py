"""A source is a data set: pixels and labels of a training and a test part, on no device.

N images, C channels, S height and width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from core.data.catalog import DATASETS, default_root
from core.data.decoding import Decoder, bits_used, decode_tree
from core.data.images import DeviceImages, ImageSet, shrink, wrap
from core.data.imported import called
from core.data.own import read_own
from core.data.published import load_published
from core.data.streaming import StreamedImages
from core.data.tree import Headers, Tree, printable, read_headers, scan_tree

__all__ = ["MEMORY_LIMIT", "Source", "load_source", "make_source", "own_source"]

MEMORY_LIMIT = 4 * 2**30
"""Bytes of pixels up to which a folder of images is loaded into memory."""

_FOLDER = "folder:"


@dataclass(frozen=True)
class FileImages:
    """These images stay in their files; here is how to decode them."""

    tree: Tree
    decoder: Decoder
    random_crops: bool


@dataclass(frozen=True, eq=False)
class Source:
    """A source is one data set, picklable and on no device.

    classes name the labels; images are in_channels x image_size x image_size; train_labels and
    test_labels are int64 [N], what `images` hands out: `dataclasses.replace` may give others.
    Pixels come from `images`: they lie in memory (uint8 [N, C, S, S], which Ray's object store
    shares between processes without a copy) or stay in their files, which every process must then
    be able to read. train_files, of images that come from files, are the paths of the training ones
    below the data set's folder, as bytes. passed_over says what else lay there.
    """

    name: str
    classes: tuple[str, ...]
    in_channels: int
    image_size: int
    train_labels: np.ndarray = field(repr=False)
    test_labels: np.ndarray = field(repr=False)
    train_data: np.ndarray | FileImages = field(repr=False)
    test_data: np.ndarray | FileImages = field(repr=False)
    train_files: np.ndarray | None = field(default=None, repr=False)
    passed_over: tuple[str, ...] = field(default=(), repr=False)

    @property
    def description(self) -> str:
        """Returns a line on what was read of the data set, and what was passed over."""
        text = (
            f"{self.name}: {self.num_classes} classes, {len(self.train_labels)} training and "
            f"{len(self.test_labels)} test images"
        )
        untested = np.setdiff1d(np.arange(self.num_classes), self.test_labels).tolist()
        if untested:
            text += f"; no test image of class {_listed([self.classes[c] for c in untested])}"
        if self.passed_over:
            text += f"; passed over: {_listed(self.passed_over)}"
        return text

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the shape of an item: [C, S, S] of images, anything of features."""
        if isinstance(self.train_data, np.ndarray):
            return self.train_data.shape[1:]
        return (self.in_channels, self.image_size, self.image_size)

    @property
    def holds_images(self) -> bool:
        """Says whether items are uint8 images; else they are float32 features."""
        return not isinstance(self.train_data, np.ndarray) or self.train_data.dtype == np.uint8

    @property
    def num_classes(self) -> int:
        """Returns how many classes there are."""
        return len(self.classes)

    def fingerprint(self) -> str:
        """Returns sixteen hexadecimal digits by which these data are recognized.

        They are of labels and pixels; of images that stay in their files, of labels and names.
        """
        digest = hashlib.blake2b(digest_size=8)
        for labels in (self.train_labels, self.test_labels):
            digest.update(np.ascontiguousarray(labels).data)
        for data in (self.train_data, self.test_data):
            content = data if isinstance(data, np.ndarray) else data.tree.names
            digest.update(str(content.shape).encode())
            digest.update(np.ascontiguousarray(content).view(np.uint8).data)
        return digest.hexdigest()

    def images(
        self,
        part: Literal["train", "test"],
        indices: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> ImageSet:
        """Returns the images of one part on a device, or those at indices (int64 [n]), in order.

        Images in memory are copied to the device once, here; on the CPU they are not copied.
        """
        if part not in ("train", "test"):
            raise ValueError(f"part must be 'train' or 'test', got {part!r}")
        labels = self.train_labels if part == "train" else self.test_labels
        data = self.train_data if part == "train" else self.test_data
        if indices is not None and len(indices):
            low, high = int(indices.min()), int(indices.max())
            if low < 0 or high >= len(labels):
                raise ValueError(
                    f"indices must lie in 0..{len(labels) - 1} for {part}, span {low}..{high}"
                )
        if isinstance(data, np.ndarray):
            return DeviceImages(data, labels, indices, device)
        return StreamedImages(
            data.tree,
            labels,
            data.decoder,
            image_size=self.image_size,
            random_crops=data.random_crops,
            indices=indices,
            device=device,
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


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
    """
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
    if train[0].dtype == np.uint8:
        return make_source(name, train, test, classes, image_size=image_size)
    if image_size is not None:
        raise ValueError(f"image_size={image_size}: {name} holds features, no images")
    shape = train[0].shape[1:]
    side = shape[1] if len(shape) > 1 else 1
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
    native = train[0].shape[-1]
    size = native if image_size is None else image_size
    if size > native:
        raise ValueError(
            f"image_size={size} is larger than the {native} pixels of {name}; "
            "images are only shrunk"
        )
    pixels = [
        part if size == native else shrink(wrap(part), size).numpy() for part in (train[0], test[0])
    ]
    channels = train[0].shape[1]
    return Source(name, classes, channels, size, train[1], test[1], pixels[0], pixels[1])


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

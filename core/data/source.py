"""A source is a data set: pixels and labels of a training and a test part, on no device.

N images, C channels, S height and width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from core.data.decoding import Decoder
from core.data.images import Device, DeviceImages, ImageSet
from core.data.streaming import StreamedImages
from core.data.tree import Tree

__all__ = ["FileImages", "Source", "Streamed", "hashes_of"]

Part = Literal["train", "test"]


class Streamed(Protocol):
    """Items that do not lie in memory; picklable.

    shape is that of an item, and images says whether it is an image or features. content is an
    array by which the items are recognized; hashes, uint8 [N, 16], are those of their values where
    they are known.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the shape of an item."""
        ...

    @property
    def images(self) -> bool:
        """Says whether items are images."""
        ...

    @property
    def content(self) -> np.ndarray:
        """Returns that by which the data are recognized."""
        ...

    @property
    def hashes(self) -> np.ndarray | None:
        """Returns hashes of the items, or None."""
        ...

    def open(
        self, labels: np.ndarray, image_size: int, indices: Tensor | None, device: Device
    ) -> ImageSet:
        """Returns the items, or those at indices, with these labels, int64 [N]."""
        ...


@dataclass(frozen=True)
class FileImages:
    """These images stay in their files; here is how to decode them."""

    tree: Tree
    decoder: Decoder
    random_crops: bool
    images = True
    hashes = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the shape of a decoded image."""
        return (self.decoder.channels, self.decoder.size, self.decoder.size)

    @property
    def content(self) -> np.ndarray:
        """Returns the files' names: their pixels are not read for that."""
        return self.tree.names

    def open(
        self, labels: np.ndarray, image_size: int, indices: Tensor | None, device: Device
    ) -> StreamedImages:
        """See `Streamed`."""
        return StreamedImages(
            self.tree,
            labels,
            self.decoder,
            image_size=image_size,
            random_crops=self.random_crops,
            indices=indices,
            device=device,
        )


@dataclass(frozen=True, eq=False)
class Source:
    """A source is one data set, picklable and on no device.

    classes name the labels; images are in_channels x image_size x image_size; train_labels and
    test_labels are int64 [N], what `images` hands out: `dataclasses.replace` may give others.
    Pixels come from `images`: they lie in memory (uint8 [N, C, S, S], which Ray's object store
    shares between processes without a copy) or are `Streamed`, from files that every process must
    then be able to read. train_files, of images that come from files, are the paths of the training
    ones below the data set's folder, as bytes. passed_over says what else lay there, and turned
    which files are turned, as their EXIF says.

    Examples:
        >>> from core.data import load_source
        >>> source = load_source("digits")
        >>> len(source.train_labels), source.num_classes, source.image_size
        (1297, 10, 8)
    """

    name: str
    classes: tuple[str, ...]
    in_channels: int
    image_size: int
    train_labels: np.ndarray = field(repr=False)
    test_labels: np.ndarray = field(repr=False)
    train_data: np.ndarray | Streamed = field(repr=False)
    test_data: np.ndarray | Streamed = field(repr=False)
    train_files: np.ndarray | None = field(default=None, repr=False)
    passed_over: tuple[str, ...] = field(default=(), repr=False)
    turned: tuple[str, ...] = field(default=(), repr=False)

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
        if self.holds_images:
            return (self.in_channels, self.image_size, self.image_size)
        return self.train_data.shape

    @property
    def holds_images(self) -> bool:
        """Says whether items are uint8 images; else they are float32 features."""
        data = self.train_data
        return data.dtype == np.uint8 if isinstance(data, np.ndarray) else data.images

    @property
    def num_classes(self) -> int:
        """Returns how many classes there are."""
        return len(self.classes)

    def fingerprint(self) -> str:
        """Returns sixteen hexadecimal digits by which these data are recognized.

        They are of labels and items; of images that stay in their files, of labels and names.
        """
        digest = hashlib.blake2b(digest_size=8)
        for labels in (self.train_labels, self.test_labels):
            digest.update(np.ascontiguousarray(labels).data)
        for data in (self.train_data, self.test_data):
            content = data if isinstance(data, np.ndarray) else data.content
            digest.update(str(content.shape).encode())
            digest.update(np.ascontiguousarray(content).view(np.uint8).data)
        return digest.hexdigest()

    def images(
        self,
        part: Part,
        indices: Tensor | None = None,
        device: Device = "cpu",
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
        return data.open(labels, self.image_size, indices, device)

    def hashes(self, part: Part) -> np.ndarray:
        """Returns a hash of each item, uint8 [N, 16]; reads all that do not lie in memory."""
        data = self.train_data if part == "train" else self.test_data
        if isinstance(data, np.ndarray):
            return hashes_of(data)
        if data.hashes is not None and data.shape == self.shape:
            return data.hashes
        return np.concatenate([hashes_of(items) for items in self.all_items(part)])

    def all_items(self, part: Part) -> Iterator[np.ndarray]:
        """Yields all items of a part in order, some hundreds at a time, on the CPU."""
        items = self.images(part)
        for batch, _ in items.batches(torch.arange(len(items)).split(256)):
            yield batch.numpy()

    @cached_property
    def train_in_test(self) -> np.ndarray:
        """Positions of the training items that stand in the test part too, int64, ascending."""
        tested = {bytes(item) for item in self.hashes("test")}
        positions = [i for i, item in enumerate(self.hashes("train")) if bytes(item) in tested]
        return np.array(positions, np.int64)


def hashes_of(items: np.ndarray) -> np.ndarray:
    """Returns a hash of each item's values, uint8 [N, 16]."""
    flat = np.ascontiguousarray(items)
    digests = [hashlib.blake2b(item.data, digest_size=16).digest() for item in flat]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(len(flat), 16)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more

"""This module gives batches of images on a device.

B batch, N images, C channels, S height and width. Pixels are uint8 until `Transform` makes floats
of them: a quarter of the memory and of the copying.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

__all__ = ["Device", "DeviceImages", "ImageSet", "on_its_way", "shrink"]

Device = torch.device | str
"""A device, or its name."""


class ImageSet(Protocol):
    """An image set gives labelled images in batches: all that a training loop sees of data.

    Examples:
        >>> import numpy as np, torch
        >>> from core.data import DeviceImages, ImageSet
        >>> def classes_seen(images: ImageSet) -> list[int]:
        ...     batches = images.batches(torch.arange(len(images)).split(4))
        ...     return torch.cat([labels for _, labels in batches]).unique().tolist()
        >>> classes_seen(DeviceImages(np.zeros((6, 1, 8, 8), np.uint8), np.arange(6) % 3))
        [0, 1, 2]
    """

    labels: Tensor
    """int64 [N], on the CPU."""

    @property
    def draws(self) -> bool:
        """Says whether images may differ from reading to reading, given a generator."""
        ...

    def __len__(self) -> int: ...

    def batches(
        self, index_batches: Iterable[Tensor], generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (uint8 [B, C, S, S], int64 [B]) on the device, in the order of index_batches.

        index_batches holds int64 tensors of positions in 0..N-1. Only sets that draw, as those do
        that crop at random while they decode, look at generator: given, it moves by one draw for
        the whole call, and crops are random; None asks for the fixed crops of evaluation.
        index_batches may be read a few batches ahead.
        """
        ...


def evenly_spaced(images: ImageSet, most: int) -> Iterator[Tensor]:
    """Yields the pixels, uint8 [B, C, S, S], of at most so many images, spread over the set."""
    total = len(images)
    count = min(total, most)
    rows = torch.arange(count) * total // count
    return (pixels for pixels, _ in images.batches(rows.split(256)))


class _Writable:
    """Presents a read-only array as writable, without a copy.

    torch warns when it wraps a read-only array (those from shared memory are), because it could not
    stop a write. Nothing here writes to the tensors, and they are never handed out.
    """

    def __init__(self, array: np.ndarray) -> None:
        self._array = array  # keeps the memory alive
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__: dict[str, Any] = interface


def wrap(array: np.ndarray) -> Tensor:
    """Returns a tensor on the array's own memory, which must not be written to."""
    return torch.from_numpy(array if array.flags.writeable else np.asarray(_Writable(array)))


class DeviceImages:
    """Device images lie on the device as one uint8 tensor: a batch is one gather, no workers.

    pixels uint8 [N, C, S, S] and labels int64 [N] may be read-only. With indices (int64 [n]) the
    set holds those images only, in that order: on the CPU they are looked up in the shared array
    (no copy), elsewhere only they are copied to the device.

    Examples:
        >>> import numpy as np, torch
        >>> from core.data import DeviceImages
        >>> images = DeviceImages(np.zeros((6, 1, 8, 8), np.uint8), np.arange(6) % 3)
        >>> [(x.shape[0], y.tolist()) for x, y in images.batches(torch.arange(4).split(2))]
        [(2, [0, 1]), (2, [2, 0])]
    """

    draws = False

    def __init__(
        self,
        pixels: np.ndarray,
        labels: np.ndarray,
        indices: Tensor | None = None,
        device: Device = "cpu",
    ) -> None:
        device = torch.device(device)
        self._rows: Tensor | None = None
        if indices is not None:
            rows = indices.cpu()
            labels = labels[rows.numpy()]
            if device.type == "cpu":
                self._rows = rows
            else:
                pixels = pixels[rows.numpy()]
        self._pixels = wrap(pixels).to(device)
        self.labels = wrap(labels).clone()
        self._device_labels = self.labels.to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, index_batches: Iterable[Tensor], generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `ImageSet.batches`; nothing is random here."""
        del generator
        for indices in index_batches:
            indices = indices.to(self._pixels.device)
            rows = indices if self._rows is None else self._rows[indices]
            yield self._pixels[rows], self._device_labels[indices]


def on_its_way(x: Tensor, y: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns both on the device; a copy to a GPU is not waited for."""
    if device.type == "cuda":
        x, y = x.pin_memory(), y.pin_memory()
    return x.to(device, non_blocking=True), y.to(device, non_blocking=True)


def shrink(pixels: Tensor, size: int) -> Tensor:
    """Averages uint8 images [N, C, S, S] by area to [N, C, size, size], rounded (half to even).

    Each new pixel is the mean of the old pixels that its square touches (adaptive average pooling).
    """
    if pixels.shape[-1] == size:
        return pixels
    parts = [
        adaptive_avg_pool2d(part.float(), size).round_().to(torch.uint8)
        for part in pixels.split(4096)
    ]
    return torch.cat(parts)

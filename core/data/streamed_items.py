"""This module reads items of a user's `Dataset` while training, in processes of a DataLoader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from core.data.images import Device, on_its_way, shrink
from core.data.tree import num_threads
from core.random_streams import seed_global_streams

__all__ = ["Batch", "DatasetItems", "read_batches"]

MOST_PROCESSES = 4

Batch = tuple[np.ndarray, list[Any]]
"""Items [B, ...] and their labels."""

Read = Callable[[Any, list[int]], Batch]
"""Reads items at positions of a Dataset, checked; whatever is wrong is a ValueError."""


class _Tasks(Dataset[Any]):
    """A task is to read a batch; its random draws depend on its place in the epoch alone."""

    def __init__(self, items: Any, read: Read) -> None:
        self._items, self._read = items, read

    def __getitem__(self, task: tuple[int, list[int]]) -> Batch | str:
        seed, positions = task
        seed_global_streams(seed)
        try:
            return self._read(self._items, positions)
        except ValueError as error:  # a DataLoader would make many lines of it
            return str(error)


def read_batches(items: Any, read: Read, batches: Iterable[Tensor], seed: int) -> Iterator[Batch]:
    """Yields what is read at each batch of positions, in order, a few batches ahead.

    Raises:
        ValueError: `read` raises it, when it is that batch's turn.
    """
    tasks = ((seed + number, batch.tolist()) for number, batch in enumerate(batches))
    loader = DataLoader(
        _Tasks(items, read),
        batch_size=None,
        sampler=tasks,
        num_workers=min(MOST_PROCESSES, num_threads()),
        generator=torch.Generator(),  # or it would draw from the global stream
        collate_fn=_as_it_is,
    )
    for batch in loader:
        if isinstance(batch, str):
            raise ValueError(batch)
        yield batch


def _as_it_is(batch: Any) -> Any:
    return batch


@dataclass(frozen=True, eq=False)
class DatasetItems:
    """Items of a user's Dataset, read when their turn comes.

    shape is that of an item, images says whether they are uint8 images; hashes uint8 [N, 16] are
    those of the values that a first pass has seen; draws says whether other passes see others.
    """

    items: Any
    read: Read
    shape: tuple[int, ...]
    images: bool
    hashes: np.ndarray = field(repr=False)
    draws: bool

    @property
    def content(self) -> np.ndarray:
        """Returns the items' hashes."""
        return self.hashes

    def open(
        self, labels: np.ndarray, image_size: int, indices: Tensor | None, device: Device
    ) -> StreamedItems:
        """See `core.data.source.Streamed`."""
        rows = torch.arange(len(labels)) if indices is None else indices.cpu()
        return StreamedItems(self, labels, image_size, rows, torch.device(device))


class StreamedItems:
    """An image set of items that are read ahead of the training; see `core.data.ImageSet`."""

    def __init__(
        self,
        data: DatasetItems,
        labels: np.ndarray,
        image_size: int,
        rows: Tensor,
        device: torch.device,
    ) -> None:
        self._data, self._image_size = data, image_size
        self._rows, self._device = rows, device
        self.draws = data.draws
        self.labels = torch.from_numpy(labels[rows.numpy()])

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, index_batches: Iterable[Tensor], generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `ImageSet.batches`; a Dataset that draws gets seeds from the generator."""
        seed = 0
        if generator is not None:
            seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        return self._stream(index_batches, seed)

    def _stream(
        self, index_batches: Iterable[Tensor], seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        positions: list[Tensor] = []

        def rows() -> Iterator[Tensor]:
            for indices in index_batches:
                positions.append(indices.cpu())
                yield self._rows[positions[-1]]

        for items, _ in read_batches(self._data.items, self._data.read, rows(), seed):
            labels = self.labels[positions.pop(0)]
            x, y = on_its_way(torch.from_numpy(items), labels, self._device)
            yield shrink(x, self._image_size) if self._data.images else x, y

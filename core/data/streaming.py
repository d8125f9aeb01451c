"""This module decodes images from files while training, a few batches ahead of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from core.data.decoding import CROP_DRAWS, Decoder, decode_chunk
from core.data.images import Device, on_its_way, shrink
from core.data.tree import Tree, failure, num_threads

__all__ = ["StreamedImages"]

_BATCHES_AHEAD = 4
_FILES_A_TASK = 16


class StreamedImages:
    """Streamed images stay in their files; threads decode them, PIL leaving Python's lock.

    labels int64 [N] are those of the tree's files, in its order; with indices (int64 [n]) the set
    holds those images only, in that order.

    Each batch goes to the device as uint8 [B, C, image_size, image_size]. With random_crops, a call
    of `batches` with a generator draws the crops of the whole call from one number of it: they
    depend on that number and on the positions in the epoch, never on which thread was quick.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from core.data import load_source
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for place in ("train/a", "train/b", "test/a", "test/b"):
        ...         Path(folder, place).mkdir(parents=True)
        ...         Image.new("L", (8, 8)).save(Path(folder, place, "0.png"))
        ...     source = load_source(f"folder:{folder}", memory_limit=0)
        ...     type(source.images("train")).__name__
        'StreamedImages'
    """

    def __init__(
        self,
        tree: Tree,
        labels: np.ndarray,
        decoder: Decoder,
        *,
        image_size: int,
        random_crops: bool,
        indices: Tensor | None = None,
        device: Device = "cpu",
    ) -> None:
        rows = slice(None) if indices is None else indices.cpu().numpy()
        self._root = tree.root
        self._names = tree.names[rows]
        self._decoder = decoder
        self._image_size = image_size
        self.draws = random_crops
        self._device = torch.device(device)
        self.labels = torch.from_numpy(np.array(labels[rows]))

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, index_batches: Iterable[Tensor], generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `ImageSet.batches`.

        Raises `DataFileError` naming up to five undecodable files of a batch, when it is that
        batch's turn.
        """
        crops = None
        if self.draws and generator is not None:
            seed = torch.randint(2**62, (), generator=generator, device=generator.device)
            crops = torch.Generator().manual_seed(int(seed))
        return self._stream(iter(index_batches), crops)

    def _stream(
        self, index_batches: Iterator[Tensor], crops: torch.Generator | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        waiting: deque[tuple[Tensor, np.ndarray, list[Future[list[str]]]]] = deque()
        pool = ThreadPoolExecutor(num_threads())

        def start(indices: Tensor) -> None:
            indices = indices.cpu()
            names = self._names[indices.numpy()].tolist()
            side = self._decoder.size
            out = np.empty((len(names), self._decoder.channels, side, side), np.uint8)
            # Drawn here, in the order of the batches, so that no thread's timing matters.
            draws = None
            if crops is not None:
                draws = torch.rand((len(names), *CROP_DRAWS), generator=crops).numpy()
            tasks = []
            for i in range(0, len(names), _FILES_A_TASK):
                part = slice(i, i + _FILES_A_TASK)
                numbers = None if draws is None else draws[part]
                tasks.append(
                    pool.submit(
                        decode_chunk, self._decoder, self._root, names[part], out[part], numbers
                    )
                )
            waiting.append((indices, out, tasks))

        try:
            for indices in index_batches:
                start(indices)
                if len(waiting) > _BATCHES_AHEAD:
                    yield self._finish(*waiting.popleft())
            while waiting:
                yield self._finish(*waiting.popleft())
        finally:
            # Also on the way out of a loop that was left early.
            pool.shutdown(wait=True, cancel_futures=True)

    def _finish(
        self, indices: Tensor, out: np.ndarray, tasks: list[Future[list[str]]]
    ) -> tuple[Tensor, Tensor]:
        if failed := [file for task in tasks for file in task.result()]:
            raise failure(failed)
        pixels, labels = on_its_way(torch.from_numpy(out), self.labels[indices], self._device)
        return shrink(pixels, self._image_size), labels

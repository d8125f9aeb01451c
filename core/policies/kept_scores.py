"""What is kept for each training sample over a whole training: a score, moved by hypergradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.user_model.ranks import Ranks

MOST = 2**30
"""Indices lie below: each has a score of four bytes."""


class KeptScores:
    """Scores of training samples, which come to be as the samples are seen.

    Args:
        initial: the score of a sample at first.

    Attributes:
        values: [N], float32, up to the last sample seen so far.
    """

    def __init__(self, initial: float = 0.0) -> None:
        self.values = torch.zeros(0, dtype=torch.float32)  # whatever the default dtype is
        self._initial = initial

    def reach(self, indices: Tensor | None, n: int, device: torch.device) -> Tensor:
        """Returns the indices of a batch of n on the device, where the scores are made to lie and
        to reach that far.

        Raises:
            ValueError: `indices` are missing, not integer [n], or out of range.
        """
        indices = _checked(indices, n)
        self._grow(int(indices.max()) + 1)
        self.values = self.values.to(device)
        return indices.to(device)

    def add(self, samples: Tensor, move: Tensor, ranks: Ranks) -> None:
        """Adds the moves, those of all ranks, to the scores; of a sample that comes twice, both.

        Args:
            samples: [M], int64, as `reach` gave them.
            move: [M], floating.
            ranks: the processes whose batches together are the batch.
        """
        if ranks.size > 1:
            # Samples of other ranks may lie further up than any seen here.
            largest = torch.tensor(len(self.values), device=move.device)
            self._grow(int(ranks.largest(largest)))
        if ranks.size > 1 or move.device.type != "cpu":  # `unique` would wait for the device
            rows, place = torch.arange(len(self.values), device=move.device), samples
        else:
            rows, place = samples.unique(return_inverse=True)
        total = torch.zeros(len(rows), dtype=move.dtype, device=move.device)
        (mean,) = ranks.mean([total.index_add_(0, place, move)])
        self.values[rows] += (mean * ranks.size).to(self.values.dtype)

    def _grow(self, size: int) -> None:
        missing = size - len(self.values)
        if missing > 0:
            self.values = nn.functional.pad(self.values, (0, missing), value=self._initial)


def _checked(indices: Tensor | None, n: int) -> Tensor:
    if indices is None:
        raise ValueError(
            f"persistent scores need `indices`, the position [{n}] of each sample of the batch in "
            "the training set; got None"
        )
    if not isinstance(indices, Tensor):
        raise ValueError(
            f"indices must be a tensor of shape [{n}], got {type(indices).__name__}; "
            "torch.as_tensor makes one"
        )
    if indices.dtype not in (torch.int64, torch.int32) or list(indices.shape) != [n]:
        raise ValueError(
            f"indices must be integer with shape [{n}], got {indices.dtype} {list(indices.shape)}"
        )
    off = (indices < 0) | (indices >= MOST)
    if bool(off.any()):
        at = int(off.int().argmax())
        limit = "at least 0" if int(indices[at]) < 0 else f"below {MOST}"
        raise ValueError(
            f"indices must be {limit}, got {int(indices[at])} at index {at}: each is a position in "
            "the training set and has a score, so number the samples from 0"
        )
    return indices

"""This module holds what several processes' meta stages must agree on: means over the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """Ranks are the processes that train one model together, each with a share of every batch.

    Attributes:
        group: their process group; None is one process alone, for which everything here is the
            identity.
    """

    group: Any = None

    @property
    def size(self) -> int:
        """Returns how many they are."""
        return 1 if self.group is None else torch.distributed.get_world_size(self.group)

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Returns each tensor averaged over the ranks, in one message for each dtype; detached.

        Every rank must call it with the same shapes and dtypes, and gets the same bits.
        """
        if self.group is None:
            return list(tensors)
        means: list[Tensor] = [t.detach() for t in tensors]
        for dtype in dict.fromkeys(t.dtype for t in means):  # a set's order differs between ranks
            places = [i for i, t in enumerate(means) if t.dtype == dtype]
            flat = torch.cat([means[i].reshape(-1) for i in places])
            torch.distributed.all_reduce(flat, group=self.group)
            flat /= self.size
            parts = flat.split([means[i].numel() for i in places])
            for i, part in zip(places, parts, strict=True):
                means[i] = part.view(means[i].shape)
        return means

    def largest(self, value: Tensor) -> Tensor:
        """Returns the elementwise maximum over the ranks."""
        if self.group is None:
            return value
        value = value.clone()
        torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX, group=self.group)
        return value

    def first(self, value: Tensor) -> Tensor:
        """Returns the first rank's value, on all of them."""
        if self.group is None:
            return value
        value = value.clone()
        source = torch.distributed.get_global_rank(self.group, 0)
        torch.distributed.broadcast(value, source, group=self.group)
        return value


ALONE = Ranks()
"""One process."""

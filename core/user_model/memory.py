"""Parameters that are tied by their memory, and not by being one object."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def refuse_shared_memory(parameters: Mapping[str, Tensor]) -> None:
    """Looks for parameters of which one element in memory is another's too.

    Copies of them would be untied. Parts of one memory that share no element, as the weights of a
    recurrent layer, are nothing of the kind.

    Args:
        parameters: by name, each object once.

    Raises:
        ValueError: there are such two.
    """
    inside: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for name, p in parameters.items():
        # Other kinds have no memory of their own that could be looked at.
        if type(p) is nn.Parameter and p.layout is torch.strided and p.numel() and not p.is_meta:
            steps = zip(p.shape, p.stride(), strict=True)
            length = 1 + sum((size - 1) * stride for size, stride in steps)
            start = int(p.storage_offset() * p.element_size())
            span = (start, start + int(length * p.element_size()), name)
            inside[p.untyped_storage().data_ptr()].append(span)
    for spans in inside.values():
        spans.sort()
        for (_, end, one), (start, _, other) in itertools.combinations(spans, 2):
            if start < end and _share(parameters[one], parameters[other]):
                raise ValueError(
                    f"the parameters {one!r} and {other!r} share their memory and are two objects, "
                    "which a step ahead would move apart; tie them by one object, as in "
                    "second.weight = first.weight, or use the one where it is needed transposed"
                )


def _share(one: Tensor, other: Tensor) -> bool:
    """Says whether two parts of one memory have an element in common."""
    if one.dtype != other.dtype:
        return True
    size = one.untyped_storage().nbytes() // one.element_size()
    taken = torch.zeros(size, dtype=torch.bool)
    taken.as_strided(one.shape, one.stride(), one.storage_offset()).fill_(True)
    return bool(taken.as_strided(other.shape, other.stride(), other.storage_offset()).any())

"""The random streams that a model's layers hold as attributes, such as a dropout of their own."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

_KINDS = (torch.Generator, random.Random, np.random.Generator)


class OwnStreams:
    """This is where they stood: torch's, Python's and NumPy's generators, and none in a container.

    Args:
        module: the plain module.
    """

    def __init__(self, module: nn.Module):
        self._states: list[tuple[Callable[[Any], object], Any]] = []
        for layer in module.modules():
            self._states += [_state(v) for v in vars(layer).values() if isinstance(v, _KINDS)]

    def put_back(self) -> None:
        """Puts them back."""
        for put, state in self._states:
            put(state)


def _state(stream: Any) -> tuple[Callable[[Any], object], Any]:
    """Returns what puts a stream back, and where it stands."""
    if isinstance(stream, torch.Generator):
        return stream.set_state, stream.get_state()
    if isinstance(stream, random.Random):
        return stream.setstate, stream.getstate()
    bits = stream.bit_generator
    return partial(setattr, bits, "state"), bits.state

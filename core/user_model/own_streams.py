"""The random streams that a model's layers hold as attributes, such as a dropout of their own."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn


class OwnStreams:
    """This is where they stood: torch's, Python's and NumPy's generators, and none in a container.

    Args:
        module: the plain module.
    """

    def __init__(self, module: nn.Module):
        self._states: list[tuple[Callable[[Any], object], Any]] = []
        for layer in module.modules():
            for value in vars(layer).values():
                if isinstance(value, torch.Generator):
                    self._states.append((value.set_state, value.get_state()))
                elif isinstance(value, random.Random):
                    self._states.append((value.setstate, value.getstate()))
                elif isinstance(value, np.random.Generator):
                    bits = value.bit_generator
                    self._states.append((_setter(bits), bits.state))

    def put_back(self) -> None:
        """Puts them back."""
        for put, state in self._states:
            put(state)


def _setter(bits: np.random.BitGenerator) -> Callable[[Any], None]:
    return lambda state: setattr(bits, "state", state)

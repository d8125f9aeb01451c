"""This module gives several passes the same random draws."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor


class Replay:
    """A replay keeps the random streams as they stand now.

    They are torch's, on the CPU and on the devices of `tensors`, Python's and NumPy's.

    What evaluates a loss more than once must meet the same dropout masks each time, or it would mix
    the gradients of different functions.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._devices = sorted({t.device.index for t in tensors if t.is_cuda})
        self._cpu = torch.get_rng_state()
        # The global streams, since those are what models draw from.
        self._python, self._numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        self._cuda = [torch.cuda.get_rng_state(device) for device in self._devices]

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Inside, the streams start where they stood; afterwards, they are back where they were."""
        with torch.random.fork_rng(devices=self._devices):
            self.rewind()
            yield

    def rewind(self) -> None:
        """Puts the streams back where they started."""
        torch.set_rng_state(self._cpu)
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        for device, state in zip(self._devices, self._cuda, strict=True):
            torch.cuda.set_rng_state(state, device)

"""This module gives several passes the same random draws."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator

import numpy as np
from torch import Tensor, nn

from core.random_streams import TorchStreams, forked
from core.user_model.own_streams import OwnStreams


class Replay:
    """A replay keeps the random streams as they stand now.

    They are torch's, on the CPU and on the devices of `tensors`, Python's and NumPy's, and those
    that the layers of `module` hold.

    What evaluates a loss more than once must meet the same dropout masks each time, or it would mix
    the gradients of different functions.
    """

    def __init__(self, tensors: Iterable[Tensor], module: nn.Module | None = None) -> None:
        self._devices = {t.device for t in tensors}
        self._torch = TorchStreams(self._devices)
        self._own = None if module is None else OwnStreams(module)
        # The global streams, since those are what models draw from.
        self._python, self._numpy = random.getstate(), np.random.get_state()  # noqa: NPY002

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Inside, the streams start where they stood; afterwards, torch's are where they were."""
        with forked(self._devices):
            self.rewind()
            yield

    def rewind(self) -> None:
        """Puts the streams back where they started."""
        self._torch.put_back()
        if self._own is not None:
            self._own.put_back()
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002

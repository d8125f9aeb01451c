"""Settings of torch that all threads of the process share, kept by whoever needs them.

A context that puts back what it found leaves them wrong where threads overlap, as in an Optuna
study with `n_jobs=2`: the first to leave takes the setting from the second, and the second puts
back what the first had set, for good.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import torch
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel


class ProcessWide:
    """A setting that holds while any thread is inside: the last to leave puts back what was.

    Args:
        make: gives the context that sets it, entered and left under a lock.
    """

    def __init__(self, make: Callable[[], contextlib.AbstractContextManager[object]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._inside = 0
        self._held = contextlib.ExitStack()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Inside, the setting holds."""
        with self._lock:
            if self._inside == 0:
                self._held.enter_context(self._make())
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._held.close()


plain_attention = ProcessWide(lambda: sdpa_kernel(SDPBackend.MATH))
"""Attention that is differentiable twice."""

without_cudnn = ProcessWide(lambda: torch.backends.cudnn.flags(enabled=False))
"""cuDNN's recurrent kernels have no second derivative; torch's own have."""

eagerly = ProcessWide(lambda: torch.compiler.set_stance("force_eager"))
"""Compiled parts of a model run as they are written."""

_DUAL_NUMBERS = threading.Lock()


@contextlib.contextmanager
def dual_level() -> Iterator[None]:
    """Inside there are dual numbers, of which torch has one level for all threads: others wait."""
    with _DUAL_NUMBERS, forward_ad.dual_level():
        yield

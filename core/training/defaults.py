"""What a training finds switched on, whatever a notebook has set before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torchs_defaults() -> Iterator[None]:
    """Inside, gradients are taken and new tensors are float32, as in a process of its own.

    A caller's `torch.set_grad_enabled(False)` and `torch.set_default_dtype` hold again afterwards.
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(dtype)

"""What a training finds switched on, whatever a notebook has set before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from core.user_model.precision import outside_autocast


@contextmanager
def torchs_defaults() -> Iterator[None]:
    """Inside, gradients are taken, new tensors are float32 and on the CPU, and nothing is cast, as
    in a process of its own.

    A caller's `torch.set_grad_enabled(False)`, `torch.inference_mode`, `torch.autocast`,
    `torch.set_default_dtype` and `torch.set_default_device` hold again afterwards.
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            if torch.get_default_device().type != "cpu":
                stack.enter_context(torch.device("cpu"))
            for device_type in ("cpu", "cuda", "mps", "xpu"):
                stack.enter_context(outside_autocast(device_type))
            yield
    finally:
        torch.set_default_dtype(dtype)

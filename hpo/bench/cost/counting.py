"""This module counts a step's operations, and those that the exact method needs at the least."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def flops(run: Callable[[], None]) -> int:
    """Counts the floating-point operations of `run`: two for each multiplication with its addition.

    Products of matrices and convolutions count, in every order of derivative and under custom
    autograd functions, since they are counted where they are dispatched; elementwise work does not.
    Compiled graphs are run eagerly for it: what they fuse is elementwise.

    The formulas are those of `torch.utils.flop_counter.FlopCounterMode`. That class itself also
    watches modules, by hooks that fail where a library takes the gradient of a module's leaves.
    """
    loaded = "torch._dynamo" in sys.modules
    eagerly = torch.compiler.set_stance("force_eager") if loaded else contextlib.nullcontext()
    with eagerly, _Counter() as counter:
        run()
    return counter.total


def floor(batch_size: int, meta_batch_size: int) -> float:
    """Returns the FLOPs of the exact step in units of plain MixUp's, if nothing is computed twice.

    With a forward pass as 1 and a backward pass as 2: the virtual step 3, the validation gradient
    3·m/n, the mixed derivative 4, the real step 3; plain MixUp 3.
    """
    return (3 + 3 * meta_batch_size / batch_size + 4 + 3) / 3


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += int(formula(*args, **(kwargs or {}), out_val=out))
        return out

"""This module holds still, in differences, what autograd passes no gradient through."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

_DETACHES = {torch.detach, Tensor.detach}
_APPLY = torch.autograd.Function.apply.__code__


class Unseen(TorchFunctionMode):
    """Of several passes alike, all but the first find under `torch.no_grad` what the first found.

    The same holds for what is detached. A difference of such passes is the derivative as autograd
    understands it: a momentum encoder, a norm by which weights are divided, the rounding of a
    straight-through estimator are constants. Random numbers are drawn as ever. Not held still is
    what the forward pass of an `autograd.Function` computes, whose gradient is its own affair.
    """

    def __init__(self) -> None:
        super().__init__()
        self._found: list[tuple[Any, Any]] = []
        self._first = True
        self._at = 0

    def again(self) -> None:
        """Begins the next pass."""
        self._first, self._at = False, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.is_grad_enabled() and func not in _DETACHES:
            return result
        if _in_a_function():
            return result
        written = args[0] if _writes(func) and args and isinstance(args[0], Tensor) else None
        if self._first:
            self._found.append(tree_map_only(Tensor, _copy, (result, written)))
            return result
        logits, values = self._found[self._at]
        self._at += 1
        if written is None:
            return logits
        written.detach().copy_(values)
        return result


def _in_a_function() -> bool:
    frame = sys._getframe()
    while frame is not None and frame.f_code is not _APPLY:
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None


def _writes(func: Callable[..., Any]) -> bool:
    name = getattr(func, "__name__", "")
    return name in ("__setitem__", "__set__") or (name.endswith("_") and not name.endswith("__"))


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()

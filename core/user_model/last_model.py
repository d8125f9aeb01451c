"""This module tells whether a model is the one that something was computed of."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


class LastModel:
    """It remembers the model that it saw last, without keeping it alive.

    A model is the same one if it is the same object, or if its parameters are. A copy,
    pickled or not, remembers none.
    """

    def __init__(self) -> None:
        self._module: weakref.ref[nn.Module] | None = None
        self._parameters: list[weakref.ref[Tensor]] = []

    def is_left(self, module: nn.Module) -> bool:
        """Returns whether the plain module is another one than the last; False of the first."""
        last = self._module
        if last is not None and last() is module:
            return False
        before, now = [p() for p in self._parameters], list(module.parameters())
        self._module, self._parameters = weakref.ref(module), [weakref.ref(p) for p in now]
        same = len(before) == len(now) and all(a is b for a, b in zip(before, now, strict=True))
        return last is not None and not same

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

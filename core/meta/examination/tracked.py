"""This module watches the operations of a pass: what memory is alive, and what it may run twice."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten


class Memory(TorchDispatchMode):
    """Inside, the memory of tensors that operations make is counted while it is alive.

    Attributes:
        peak: bytes at most, what was there before not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._alive = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, (tuple, list)) else (result,)
        for tensor in made:
            place = _place(tensor) if isinstance(tensor, Tensor) else None
            if place is None or place in self._known:
                continue
            inputs = tree_flatten((args, kwargs))[0]
            if not any(isinstance(t, Tensor) and _place(t) == place for t in inputs):
                self._count(place, tensor.untyped_storage())
        return result

    def _count(self, place: int, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()

        def forget(_: object) -> None:
            self._alive -= size
            self._known.pop(place, None)

        self._known[place] = weakref.ref(storage, forget)
        self._alive += size
        self.peak = max(self.peak, self._alive)


class BackwardOperations(TorchDispatchMode):
    """Inside, operations are recorded with the first arguments that each was given.

    Open it round a backward pass alone: of a forward pass all operations have derivatives.
    """

    def __init__(self) -> None:
        super().__init__()
        self._first: dict[Any, tuple[Any, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in self._first and not func._schema.is_mutable:
            self._first[func] = tree_map_only(Tensor, lambda t: t.detach().clone(), (args, kwargs))
        return func(*args, **kwargs)

    def without_derivative(self) -> list[str]:
        """Returns the names of those that torch cannot differentiate, in the order of their use."""
        return [
            func._schema.name.removeprefix("aten::")
            for func, (args, kwargs) in self._first.items()
            if not _differentiable(func, args, kwargs)
        ]


def _differentiable(func: Callable[..., Any], args: Any, kwargs: Any) -> bool:
    # Of what a backward pass runs, the first argument is the slope that comes from above. Others,
    # such as saved means, may have no derivative where none is needed.
    flat, structure = tree_flatten((args, kwargs))
    slopes = [i for i, t in enumerate(flat) if isinstance(t, Tensor) and t.is_floating_point()]
    if not slopes:
        return True
    slope = flat[slopes[0]] = flat[slopes[0]].detach().requires_grad_()
    args, kwargs = tree_unflatten(flat, structure)
    try:
        with torch.enable_grad():
            results = [t for t in tree_flatten(func(*args, **kwargs))[0] if isinstance(t, Tensor)]
            total = [t.sum() for t in results if t.requires_grad]
            if total:
                torch.autograd.grad(total, slope, allow_unused=True)
    except RuntimeError as error:
        return "is not implemented" not in str(error)
    return True


def _place(tensor: Tensor) -> int | None:
    """Returns what tells one piece of memory from another; None where it is not a plain one."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse tensors
        return None

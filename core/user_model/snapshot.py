"""This module keeps all that can change in a user's objects, says what did, and puts it back."""

from __future__ import annotations

import random
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_UNCHANGING = (*_PLAIN, type, types.ModuleType, torch.dtype, torch.device)
_SEQUENCES = (list, tuple, set, frozenset, deque)
_REGISTERS = ("_parameters", "_buffers", "_modules")

_DEPTH = 4
"""So far from the next module things are followed: a trainer and its data set are not copied."""


@dataclass(frozen=True)
class _Kept:
    """This is one thing that can change: which names of it did, and how it is put back."""

    changed: Callable[[], list[str]]
    restore: Callable[[], None]


class Snapshot:
    """A snapshot holds the objects given and what they refer to, as they stand.

    Followed are modules and other objects by their attributes, containers, and what functions
    (hooks, mostly) have closed over. Kept are tensors with their gradients, arrays, numbers, texts,
    containers and random generators.

    Args:
        roots: by the name that reports begin with; "" for a model, whose parts have names.
        but: objects that are left out.
    """

    def __init__(self, roots: dict[str, Any], but: Iterable[Any] = ()) -> None:
        # The objects too, lest an id be given again.
        seen: dict[int, Any] = {id(value): value for value in but}
        self._kept: list[_Kept] = []
        # What several roots refer to has the name that the first gives it.
        stack = [(name, root, 0) for name, root in reversed(roots.items())]
        while stack:
            name, value, depth = stack.pop()
            if isinstance(value, _UNCHANGING) or id(value) in seen or depth > _DEPTH:
                continue
            seen[id(value)] = value
            self._kept += _kept(name, value)
            depth = 0 if isinstance(value, nn.Module) else depth
            stack += [(inner, part, depth + 1) for inner, part in _parts(name, value)]

    def restore(self) -> set[str]:
        """Puts back what is not as it was, leaves the rest alone, and returns the names."""
        changed: set[str] = set()
        for part in self._kept:
            if names := part.changed():
                changed.update(names)
                part.restore()
        return changed


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields what a value refers to, by name."""
    if isinstance(value, Tensor):
        if value.is_leaf:
            yield f"{name}.grad", value.grad
    elif isinstance(value, dict):
        # An optimizer's state is by parameter, whose text would be its numbers.
        for i, (key, part) in enumerate(value.items()):
            yield f"{name}[{key if isinstance(key, (str, int)) else i!r}]", part
    elif isinstance(value, _SEQUENCES):
        yield from ((f"{name}[{i}]", part) for i, part in enumerate(value))
    elif isinstance(value, types.FunctionType):
        for variable, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            if isinstance(part := _content(cell), (Tensor, dict, *_SEQUENCES, nn.Module)):
                yield f"{name}.{variable}", part
    elif _has_attributes(value):
        for attribute, part in vars(value).items():
            if isinstance(value, nn.Module) and attribute in _REGISTERS:
                yield from ((_join(name, key), child) for key, child in part.items())
            else:
                yield _join(name, attribute), part


def _kept(name: str, value: Any) -> Iterator[_Kept]:
    """Yields what of a value itself can change."""
    if isinstance(value, Tensor):
        yield _tensor(name, value)
    elif isinstance(value, np.ndarray):
        yield _state(name, value.copy, lambda old: np.copyto(value, old))
    elif isinstance(value, dict):
        yield _mapping(lambda _: name, value)
    elif isinstance(value, (list, deque)):
        yield _state(name, lambda: list(value), lambda old: _refill(value, value.extend, old))
    elif isinstance(value, set):
        yield _state(name, lambda: set(value), lambda old: _refill(value, value.update, old))
    elif isinstance(value, torch.Generator):
        yield _state(name, value.get_state, value.set_state)
    elif isinstance(value, random.Random):
        yield _state(name, value.getstate, value.setstate)
    elif isinstance(value, np.random.Generator):
        bits = value.bit_generator
        yield _state(name, lambda: bits.state, lambda old: setattr(bits, "state", old))
    elif _has_attributes(value):
        yield _mapping(lambda key: _join(name, key), vars(value))
        if isinstance(value, nn.Module):
            for register in _REGISTERS:
                yield _mapping(lambda key: _join(name, key), vars(value)[register])


def _state(name: str, read: Callable[[], Any], write: Callable[[Any], Any]) -> _Kept:
    before = read()
    return _Kept(lambda: [] if _same(read(), before) else [name], lambda: write(before))


def _mapping(named: Callable[[Any], str], mapping: dict[Any, Any]) -> _Kept:
    before = dict(mapping)

    def changed() -> list[str]:
        gone = object()
        keys = {**before, **mapping}
        differing = [
            key for key in keys if not _same(mapping.get(key, gone), before.get(key, gone))
        ]
        return [named(key) for key in differing]

    return _Kept(changed, lambda: _refill(mapping, mapping.update, before))


def _tensor(name: str, tensor: Tensor) -> _Kept:
    here, values = tensor.detach(), tensor.detach().clone()
    grad, needed = (tensor.grad if tensor.is_leaf else None), tensor.requires_grad

    def moved() -> bool:
        if tensor.shape != here.shape or tensor.layout != here.layout:
            return True
        return tensor.layout is torch.strided and tensor.data_ptr() != here.data_ptr()

    def changed() -> list[str]:
        flags = tensor.is_leaf and (tensor.grad is not grad or tensor.requires_grad != needed)
        return [name] if flags or moved() or not _same(tensor.detach(), values) else []

    def restore() -> None:
        if moved():
            tensor.data = here
        if not _same(tensor.detach(), values):
            with torch.no_grad():  # not through `here`: of a sparse tensor it has values of its own
                tensor.copy_(values)
        if tensor.is_leaf:
            tensor.requires_grad_(needed).grad = grad

    return _Kept(changed, restore)


def _refill(container: Any, fill: Callable[[Any], Any], old: Any) -> None:
    container.clear()
    fill(old)


def _same(new: Any, old: Any) -> bool:
    """Says whether two values are one: the same object, or equal where there is nothing inside."""
    if new is old:
        return True
    if type(new) is not type(old):
        return False
    if isinstance(new, Tensor):
        if (new.shape, new.dtype, new.layout) != (old.shape, old.dtype, old.layout):
            return False
        if new.layout is not torch.strided:
            return _same(new.to_dense(), old.to_dense())
        nan = new.is_floating_point() or new.is_complex()
        return torch.equal(new, old) or (nan and torch.allclose(new, old, 0, 0, equal_nan=True))
    if isinstance(new, np.ndarray):
        return np.array_equal(new, old, equal_nan=new.dtype.kind in "fc")
    if isinstance(new, (list, tuple)):
        return len(new) == len(old) and all(map(_same, new, old))
    if isinstance(new, dict):
        return new.keys() == old.keys() and all(_same(new[key], old[key]) for key in new)
    return isinstance(new, (*_PLAIN, set)) and (new == old or new != new)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value yet
        return None


def _has_attributes(value: Any) -> bool:
    functions = types.FunctionType, types.MethodType, types.BuiltinFunctionType
    return hasattr(value, "__dict__") and not isinstance(value, functions)


def _join(name: str, attribute: str) -> str:
    return f"{name}.{attribute}" if name else attribute

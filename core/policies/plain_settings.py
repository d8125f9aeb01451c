"""Settings are plain values of Python, each of its type: JSON and checkpoints take no others."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from numbers import Integral, Real
from typing import Any, get_args, get_type_hints

import numpy as np


def with_python_numbers(value: Any) -> Any:
    """Returns a setting with Python's numbers, in tuples and in nested configurations too.

    Args:
        value: any; what holds no NumPy number is returned as it is.
    """
    if isinstance(value, np.generic):
        return value.item()
    if type(value) is tuple:
        parts = tuple(map(with_python_numbers, value))
        return value if all(map(operator.is_, parts, value)) else parts
    if is_dataclass(value) and not isinstance(value, type):
        named = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
        python = {name: with_python_numbers(part) for name, part in named.items()}
        changed = {name: python[name] for name in named if python[name] is not named[name]}
        return replace(value, **changed) if changed else value
    return value


_KINDS: Mapping[Any, tuple[Any, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "a text"),
    bool: (bool, "True or False"),
    type(None): (type(None), "None"),
}


def check_kinds(config: Any) -> None:
    """Raises ValueError where a number, a text or the like is of another type than its field.

    Args:
        config: an instance of a dataclass; fields of other types are passed over.
    """
    for name, kinds in _plain_fields(config.__class__):
        value = getattr(config, name)
        is_right = isinstance(value, tuple(_KINDS[kind][0] for kind in kinds))
        if not is_right or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(_KINDS[kind][1] for kind in kinds)
            raise ValueError(f"{name} must be {wanted}, got {value!r}")


@cache
def _plain_fields(kind: Any) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """Returns the fields that are numbers, texts and the like, with the types of each."""
    kinds = {name: get_args(of) or (of,) for name, of in get_type_hints(kind).items()}
    return tuple((name, of) for name, of in kinds.items() if {*_KINDS}.issuperset(of))

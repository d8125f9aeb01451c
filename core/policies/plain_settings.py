"""Settings are plain values of Python, each of its type: JSON and checkpoints take no others."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
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


_WITHIN: Mapping[str, Callable[[Any], bool]] = {
    "be at least 0": lambda value: value >= 0,
    "be at least 1": lambda value: value >= 1,
    "be None or at least 1": lambda value: value >= 1,
    "be positive and finite": lambda value: 0 < value < float("inf"),
    "be finite and at least 0": lambda value: 0 <= value < float("inf"),
    "be finite and at least 1": lambda value: 1 <= value < float("inf"),
    "lie in [0, 1]": lambda value: 0 <= value <= 1,
    "lie in [0, 1)": lambda value: 0 <= value < 1,
    "lie in (0, 1]": lambda value: 0 < value <= 1,
}


def check_numbers(config: Any, limit: str, *names: str) -> None:
    """Raises ValueError where one of these settings is off its limit, as a number or as None.

    Args:
        config: what has the settings.
        limit: in words, one of those that are known here.
        names: of the settings.
    """
    for name in names:
        value = getattr(config, name)
        if not ("None" in limit if value is None else _WITHIN[limit](value)):
            raise ValueError(f"{name} must {limit}, got {value}")


def check_choices(config: Any, **known: Collection[str]) -> None:
    """Raises ValueError where one of these settings is none of the values that are known."""
    for name, choices in known.items():
        value = getattr(config, name)
        if value not in choices:
            listed = f"{' or '.join(choices)}," if len(choices) == 2 else f"{', '.join(choices)};"
            raise ValueError(f"{name} must be {listed} got {value!r}")


@cache
def _plain_fields(kind: Any) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """Returns the fields that are numbers, texts and the like, with the types of each."""
    kinds = {name: get_args(of) or (of,) for name, of in get_type_hints(kind).items()}
    return tuple((name, of) for name, of in kinds.items() if {*_KINDS}.issuperset(of))

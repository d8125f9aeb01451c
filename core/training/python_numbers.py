"""This module makes NumPy's numbers Python's: JSON and checkpoints take no others."""

from __future__ import annotations

import operator
from dataclasses import fields, is_dataclass, replace
from typing import Any

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

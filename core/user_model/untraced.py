"""This module keeps `torch.compile` out of what it cannot trace."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def untraced(function: Callable[P, R]) -> Callable[P, R]:
    """Runs the function as it is where a caller is compiled: the caller's graph breaks round it.

    `torch.compiler.disable` alone does the same and loads Dynamo, which takes seconds, for those
    who compile nothing.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            plain: Callable[P, R] = torch.compiler.disable(function)
            return plain(*args, **kwargs)
        return function(*args, **kwargs)

    return call

"""This module names what an engine cannot differentiate, and the engine that can."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

_SECOND = re.compile(
    r"derivative for '?(?:aten::)?(\w+)'? is not implemented|(\w+) does not support 3rd\+ order|"
    r"backward through ([\w:.]+) but no autograd formula"
)
"""torch's words where a backward pass, or that of a backward pass, has no derivative."""

_FORWARD = re.compile(
    r"forward AD with (?:aten::)?(\w+)|"
    r"ZeroTensors are immutable|[Jj]acobian-vector product|\bjvp\b"
)
"""torch's words where an operation has no forward derivative."""

_SPARSE = re.compile(r"Sparse(?:TensorImpl|CPU|CUDA)|norm_sparse")

_OTHERS = {"double_backward": "auto", "finite_difference": "finite_difference"}
"""Engines to fall back on, the exact one first, and how users name them."""


@contextlib.contextmanager
def named_refusals(engine: str, way_out: str | Callable[[str], bool]) -> Iterator[None]:
    """Turns torch's errors about missing derivatives into a `ValueError` with the way out.

    Args:
        engine: the one that runs inside.
        way_out: what to do about it; or, where another engine may do, what tries one on the same
            problem.

    Raises:
        ValueError: an operation of the model or of the loss has not the derivative that the engine
            needs; the message names the operation and an engine that does without.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        what = _missing(engine, error)
        if what is None:
            raise
        raise ValueError(f"{what}; {_cure(engine, way_out)}") from error


def _cure(engine: str, way_out: str | Callable[[str], bool]) -> str:
    if isinstance(way_out, str):
        return way_out
    other = next((name for name in _OTHERS if name != engine and way_out(name)), None)
    if other is None:
        return "no engine can follow it here; replace it"
    return f'use engine="{_OTHERS[other]}"'


def _missing(engine: str, error: BaseException) -> str | None:
    """Returns what is missing, in words, by an error or what caused it; None for other errors."""
    cause: BaseException | None = error
    while cause is not None:
        message = str(cause)
        if engine == "forward_reverse" and (match := _FORWARD.search(message)):
            operation = match[1] or "an autograd.Function, a backward hook or another operation"
            return (
                f"{operation} of the model or the loss has no forward derivative in torch, which "
                'engine="forward_reverse" needs'
            )
        if engine in ("forward_reverse", "finite_difference") and _SPARSE.search(message):
            return (
                "the model has sparse gradients, as of nn.Embedding(sparse=True), which "
                f'engine="{engine}" cannot follow'
            )
        if match := _SECOND.search(message):
            order, operation = "third" if match[2] else "second", next(filter(None, match.groups()))
            return (
                f"{operation} of the model or the loss has no {order} derivative in torch, which "
                f'engine="{engine}" needs'
            )
        cause = cause.__cause__
    return None

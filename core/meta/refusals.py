"""This module names what an engine cannot differentiate, and the engine that can."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

_SECOND = re.compile(r"derivative for '?(?:aten::)?(\w+)'? is not implemented")
"""torch's words where a backward pass has no derivative of its own."""

_FORWARD = re.compile(
    r"forward AD with (?:aten::)?(\w+)|"
    r"ZeroTensors are immutable|[Jj]acobian-vector product|\bjvp\b"
)
"""torch's words where an operation has no forward derivative."""


_SPARSE = re.compile(r"Sparse(?:TensorImpl|CPU|CUDA)")


@contextlib.contextmanager
def named_refusals(engine: str) -> Iterator[None]:
    """Turns torch's errors about missing derivatives into a `ValueError` with the way out.

    Args:
        engine: the one that runs inside.

    Raises:
        ValueError: an operation of the model or of the loss has not the derivative that the engine
            needs; the message names the operation and an engine that does without.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        cause: BaseException | None = error
        while cause is not None:
            message = str(cause)
            if engine == "forward_reverse" and (match := _FORWARD.search(message)):
                operation = next((g for g in match.groups() if g), "an operation")
                # Fused attention that the model forces has no second derivative either.
                other = "finite_difference" if "attention" in operation else "auto"
                raise ValueError(
                    f"{operation} of the model or the loss has no forward derivative in torch, "
                    f'which engine="forward_reverse" needs; use engine="{other}"'
                ) from error
            if engine in ("forward_reverse", "finite_difference") and _SPARSE.search(message):
                raise ValueError(
                    "the model has sparse gradients, as of nn.Embedding(sparse=True), which "
                    f'engine="{engine}" cannot follow; use engine="auto"'
                ) from error
            if match := _SECOND.search(message):
                raise ValueError(
                    f"{match[1]} of the model or the loss has no second derivative in torch, "
                    f'which engine="{engine}" needs; use engine="finite_difference"'
                ) from error
            cause = cause.__cause__
        raise

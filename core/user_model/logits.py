"""This module takes the logits from what a user's model returns: a dict, a tuple, an object."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

LogitsOf = str | int | Callable[[Any], Tensor]
"""A key, an attribute, a position, or a function of what the model returns."""


class WithLogits(nn.Module):
    """This is a user's model that returns its logits alone.

    It has no state of its own: parameters, buffers, submodules, hooks, mode and names are those of
    the model, the very same objects. See `with_logits`.
    """

    __slots__ = ("logits_of", "model")

    def __init__(self, model: nn.Module, logits_of: LogitsOf) -> None:
        object.__setattr__(self, "__dict__", model.__dict__)
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "logits_of", logits_of)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the model, hooks included, and returns its logits."""
        return taken(self.model(*args, **kwargs), self.logits_of)

    def train(self, mode: bool = True) -> WithLogits:
        """Sets the model's mode as the model itself does."""
        self.model.train(mode)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the model's state as the model itself does."""
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Loads the model's state as the model itself does."""
        return self.model.load_state_dict(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Hooks are the model's: they run there, and once.
        return self.forward(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return WithLogits, (self.model, self.logits_of)


def with_logits(model: nn.Module, logits_of: LogitsOf | None) -> nn.Module:
    """Returns the model as one that returns logits, for policies, steps and loops alike.

    The steps of `core` do this by themselves where they are given `logits_of`. Policies, which are
    called with a model alone, are called with this one.

    Args:
        model: any module, with what training loops wrap around it.
        logits_of: how the logits [n, C] are taken from what the model returns: a key of a mapping,
            the name of an attribute, a position in a tuple, or a function. A model that returns one
            tensor, as GoogLeNet does in evaluation mode, is passed over by keys and positions. None
            returns the model itself.

    Returns:
        A module with the same parameters, buffers, names, mode and hooks.

    Raises:
        ValueError: `logits_of` is something else. A call raises it where the output has no such
            part.

    Examples:
        >>> import torch, core
        >>> class Net(torch.nn.Linear):
        ...     def forward(self, x):
        ...         return {"logits": super().forward(x), "features": x}
        >>> model = core.with_logits(Net(4, 3), "logits")
        >>> model(torch.zeros(2, 4)).shape, [name for name, _ in model.named_parameters()]
        (torch.Size([2, 3]), ['weight', 'bias'])
    """
    if logits_of is None:
        return model
    if not (isinstance(logits_of, (str, int)) or callable(logits_of)):
        raise ValueError(
            "logits_of must be a key, an attribute's name, a position or a function, got "
            f"{type(logits_of).__name__}"
        )
    return WithLogits(model, logits_of)


def taken(output: Any, logits_of: LogitsOf) -> Any:
    """Returns the logits of what a model returned; see `with_logits`.

    Raises:
        ValueError: there is no such part in it.
    """
    if callable(logits_of):
        return logits_of(output)
    if isinstance(output, Tensor):
        return output
    takes: tuple[Callable[[Any, Any], Any], ...] = (operator.getitem, getattr)
    for take in takes:
        with contextlib.suppress(KeyError, IndexError, TypeError, AttributeError):
            return take(output, logits_of)
    raise ValueError(
        f"logits_of={logits_of!r} is not in what the model returns, {described(output)}; give a "
        "key, an attribute's name, a position or a function that takes the logits from it"
    )


def described(output: Any) -> str:
    """Returns an output of a model in a few words: its type, and the names or number of parts."""
    kind = type(output).__name__
    if isinstance(output, Tensor):
        return str(list(output.shape))
    if isinstance(output, Mapping):
        return f"{kind} with {', '.join(map(repr, output))}"
    fields = getattr(output, "_fields", None) or getattr(output, "__dataclass_fields__", None)
    if fields:
        return f"{kind} with {', '.join(map(repr, fields))}"
    return f"{kind} of {len(output)}" if isinstance(output, (tuple, list)) else kind

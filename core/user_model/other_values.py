"""This module runs a user's module while its parameters and buffers are others."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def places(module: nn.Module) -> dict[str, list[str]]:
    """Returns where the module keeps each of its parameters and buffers, by its first name.

    Tied weights have several places, and a module that has several names is one. By itself
    `functional_call` would count that one for several: it would put the values in twice, and put
    them "back" in place of the parameters.
    """
    first = {id(t): name for name, t in chain(module.named_parameters(), module.named_buffers())}
    found: dict[str, list[str]] = {name: [] for name in first.values()}
    for prefix, layer in module.named_modules():
        own = chain(
            layer.named_parameters(prefix, recurse=False, remove_duplicate=False),
            layer.named_buffers(prefix, recurse=False, remove_duplicate=False),
        )
        for name, t in own:
            found[first[id(t)]].append(name)
    return found


def with_values(
    module: nn.Module,
    values: Mapping[str, Tensor],
    *args: Any,
    at: Mapping[str, list[str]] | None = None,
) -> Any:
    """Returns `module(*args)` at other values of its parameters and buffers, which stay.

    Args:
        module: what is called.
        values: by the names that `named_parameters()` and `named_buffers()` give; others stay.
        args: what it is called with.
        at: `places(module)`, where they are known already.
    """
    at = places(module) if at is None else at
    everywhere = {place: value for name, value in values.items() for place in at[name]}
    return functional_call(module, everywhere, args, tie_weights=False)

"""This module refuses the state of another policy before any of it is loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from core.lazy import torch

if TYPE_CHECKING:
    from torch import nn

_WAY_OUT = (
    "load it into a policy of the class and the settings of the one that gave it, or begin without"
)


def check_stored(
    policy: Any,
    state: Mapping[str, Any],
    of: type[Any],
    own: Collection[str] | None = None,
    optional: Collection[str] = (),
) -> None:
    """Raises ValueError unless `state` has the entries that policies of a class keep.

    A subclass may keep more. So entries beyond those of `of` are refused only where the policy has
    the `load_state_dict` of that class.

    Args:
        policy: the `core.Policy` that is about to load the state.
        state: what it was given.
        of: the class whose `load_state_dict` this is.
        own: the entries; those of `of.state_dict` if None.
        optional: which of them states of earlier versions lack.
    """
    own = set(of.state_dict(policy) if own is None else own)
    whole = type(policy).load_state_dict is of.load_state_dict
    _check_entries(policy, state, own, own - set(optional), beyond=whole)


def load_weights(policy: Any, module: nn.Module, state: Mapping[str, Any]) -> None:
    """Loads the weights of a network of the policy.

    Raises:
        ValueError: the stored network has other parameters, or other shapes.
    """
    own = module.state_dict()
    _check_entries(policy, state, set(own), set(own), beyond=True)
    for name, value in own.items():
        if not isinstance(value, torch.Tensor) or torch.nn.parameter.is_lazy(value):
            continue
        here, there = list(value.shape), list(state[name].shape)
        if here != there:
            raise ValueError(
                f"the stored state has {name} of shape {there}, and this {type(policy).__name__} "
                f"has {here}; {_WAY_OUT}"
            )
    module.load_state_dict(state)


def _check_entries(
    policy: Any, state: Mapping[str, Any], own: set[str], needed: set[str], *, beyond: bool
) -> None:
    missing = needed - state.keys()
    if not missing and not (beyond and state.keys() - own):
        return
    raise ValueError(
        f"the stored state is that of another policy: it has {_listed(state)}, and a "
        f"{type(policy).__name__} has {_listed(own)}; {_WAY_OUT}"
    )


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"

"""The meta stage leaves a user's module as it was, whatever its forward pass does to it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
from torch import Tensor, nn
from torch.nn.utils import parametrize

from core.random_streams import forked
from core.user_model.own_streams import OwnStreams


@contextlib.contextmanager
def aside(module: nn.Module) -> Iterator[None]:
    """Inside, the module's passes draw dropout as the pass that comes after it will, and every
    random stream stands afterwards where it stood; the module itself is `untouched`."""
    with forked(p.device for p in module.parameters()), untouched(module):
        yield


@contextlib.contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """Afterwards each layer trains or evaluates as before, whatever happened inside."""
    modes = [(layer, layer.training) for layer in module.modules()]
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training


def train_mode(module: nn.Module) -> None:
    """Sets the module to train, but not parts that stand in evaluation mode while the whole trains:
    a user has frozen them."""
    if not module.training:
        module.train()


@contextlib.contextmanager
def copyable(module: nn.Module) -> Iterator[None]:
    """Inside, `copy.deepcopy` takes the module: weights that its layers have computed (by the older
    `weight_norm` and its like, which compute them anew) stand without their graph."""
    computed = [
        (vars(layer), name, value)
        for layer in module.modules()
        for name, value in vars(layer).items()
        if isinstance(value, Tensor) and value.grad_fn is not None
    ]
    for attributes, name, value in computed:
        attributes[name] = value.detach()
    try:
        yield
    finally:
        for attributes, name, value in computed:
            attributes[name] = value


@contextlib.contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Inside, forward passes may write to the module; afterwards, it stands as before.

    Four things are seen to, which parameters and buffers given to `functional_call` do not cover:

    - The cache of `torch.nn.utils.parametrize.cached()` is keyed by module and name, so it would
      hand the weight computed from θ to the pass at θ′, and ours to the real step. It is closed.
    - Layers that compute a weight before their forward pass (the older `weight_norm` and
      `spectral_norm`, pruning) keep it as an attribute, and recurrent layers a list of all weights.
      They are put back.
    - Python's and NumPy's global random streams, from which a forward pass may draw.
    - The random streams that layers hold themselves.

    Args:
        module: the plain module.
    """
    computed = [
        (layer, {name: v for name, v in vars(layer).items() if _is_weight(name, v)})
        for layer in module.modules()
        if layer._forward_pre_hooks or isinstance(layer, nn.RNNBase)
    ]
    # The global streams, since those are what models draw from.
    streams = random.getstate(), np.random.get_state()  # noqa: NPY002
    own = OwnStreams(module)
    with _no_parametrization_cache():
        try:
            yield
        finally:
            for layer, attributes in computed:
                for name in [n for n, v in vars(layer).items() if _is_weight(n, v)]:
                    if name not in attributes:
                        del vars(layer)[name]
                vars(layer).update(attributes)
            random.setstate(streams[0])
            np.random.set_state(streams[1])  # noqa: NPY002
            own.put_back()


def _is_weight(name: str, value: object) -> bool:
    return isinstance(value, Tensor) or name.startswith("_flat_weight")


@contextlib.contextmanager
def _no_parametrization_cache() -> Iterator[None]:
    """`parametrize.cached()` has no way to be left early but its two module variables."""
    enabled, cache = parametrize._cache_enabled, parametrize._cache
    parametrize._cache_enabled, parametrize._cache = 0, {}
    try:
        yield
    finally:
        parametrize._cache_enabled, parametrize._cache = enabled, cache

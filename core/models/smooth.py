"""This module swaps ReLU and max-pooling for layers whose gradient is differentiable.

A ReLU network has a gradient that jumps: no κ bounds it, and what is proved from such a bound (the
paper's Proposition 1) says nothing about the network.
"""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def smoothed(model: Model) -> Model:
    """Swaps, in place, every `nn.ReLU` for GELU and every `nn.MaxPool2d` for its window's mean.

    GELU, x·Φ(x) with the normal distribution function Φ (Hendrycks and Gimpel, 2016), has
    derivatives of every order; the second one, (2 − x²)·φ(x), lies within [−0.11, 0.80].
    Features that were non-negative are now above −0.17. Max-pooling is not differentiable where two
    pixels tie. No weight changes, so the initialization is that of the model.

    Args:
        model: one whose ReLUs and pooling are modules, as those of the CNNs are. What a `forward`
            does by function calls cannot be seen here and stays.

    Returns:
        The model.

    Raises:
        ValueError: it has neither layer, or a max-pooling that pads or dilates.
    """
    swapped = 0
    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, nn.ReLU):
                setattr(parent, name, nn.GELU())
            elif isinstance(layer, nn.MaxPool2d):
                setattr(parent, name, _mean_of(layer))
            else:
                continue
            swapped += 1
    if not swapped:
        raise ValueError(
            f"{type(model).__name__} has no nn.ReLU and no nn.MaxPool2d module to swap; give the "
            "layers that its forward calls as functions a module each"
        )
    return model


def _mean_of(layer: nn.MaxPool2d) -> nn.AvgPool2d:
    if layer.dilation != 1 or layer.padding != 0:
        raise ValueError(
            f"no smooth counterpart of {layer}: give it padding 0 and dilation 1, or pool by means"
        )
    return nn.AvgPool2d(layer.kernel_size, layer.stride, ceil_mode=layer.ceil_mode)

"""This module sets what networks of one shape differ in from source to source: BatchNorm."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def set_batchnorm(
    model: nn.Module, momentum: float | None = None, eps: float | None = None
) -> None:
    """Gives every BatchNorm of the model its momentum and ε, in place.

    Args:
        model: any module.
        momentum: the weight of the newest batch in the running statistics, in (0, 1]: 1 minus what
            TensorFlow calls momentum. None leaves the model's.
        eps: what is added to the variance, positive; None leaves the model's.

    Raises:
        ValueError: a value is given, and the model has no BatchNorm.
    """
    if momentum is None and eps is None:
        return
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    if not layers:
        raise ValueError(
            "batchnorm_momentum and batchnorm_eps have no use in a model without BatchNorm; leave "
            "them out"
        )
    for layer in layers:
        layer.momentum = layer.momentum if momentum is None else momentum
        layer.eps = layer.eps if eps is None else eps

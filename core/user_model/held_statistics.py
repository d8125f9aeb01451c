"""This module lets passes leave BatchNorm's running statistics where they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def statistics_held(model: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm layers in training mode use the batch's statistics and keep their own.

    Perturbed, noisy and guessing passes would otherwise pull the running statistics away from those
    of the images that are evaluated (Oliver et al. 2018 move them in the clean pass alone).
    """
    layers = [
        m
        for m in model.modules()
        if isinstance(m, _BatchNorm) and m.training and m.track_running_stats
    ]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True

"""The user's own parts of a training are tried before the first one begins."""

from __future__ import annotations

import math

import torch
from torch import nn

from core.data import Source
from core.random_streams import seeded
from core.training.config import TrainingConfig
from core.training.optimizers import build_optimizer, learning_rate
from core.training.prepared_data import augmentation


def check_recipe(config: TrainingConfig, source: Source, model: nn.Module) -> None:
    """Builds the optimizer, asks the schedule for its first and last rate, augments four items.

    Raises:
        ValueError: one of them is the user's own and fails; the line names it.
    """
    if ":" in config.optimizer:
        build_optimizer(config, model)
    if ":" in config.schedule:
        for step in (0, 99):
            rate = learning_rate(config, step, 100)
            if not (isinstance(rate, (int, float)) and 0 <= rate < math.inf):
                raise ValueError(
                    f"schedule {config.schedule} gives the rate {rate!r} at step {step} of 100; "
                    "return a finite number, at least 0"
                )
    augment = augmentation(config)
    if augment is None:
        return
    items, _ = next(source.images("train", torch.arange(4)).batches([torch.arange(4)]))
    try:
        with seeded(0):
            moved = augment(items.clone())
    except Exception as error:  # a user's code may raise anything
        raise ValueError(
            f"augment {config.augment} fails on a batch {items.dtype} {list(items.shape)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    found = getattr(moved, "dtype", type(moved).__name__), list(getattr(moved, "shape", ()))
    if found != (items.dtype, list(items.shape)):
        raise ValueError(
            f"augment {config.augment} makes {found[0]} {found[1]} of {items.dtype} "
            f"{list(items.shape)}; return a batch of the same dtype and shape"
        )

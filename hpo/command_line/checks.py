"""This module tries what a training would stumble over, before the first one begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from core.policies import PolicyConfig
from core.training.config import TrainingConfig
from core.training.network import check_network
from core.training.prepared_data import draw_labels
from core.training.recipe import check_recipe
from core.user_model.precision import check_precision, is_emulated
from hpo.command_line.flags import flag

if TYPE_CHECKING:
    from core.data import Source


def check_training(
    training: TrainingConfig,
    source: Source,
    policies: Sequence[PolicyConfig],
    device: str | None,
    seeds: Iterable[int] = (0,),
) -> None:
    """Raises ValueError where network, recipe, data or device do not fit; trains nothing.

    Args:
        training: what is to be trained.
        source: its data.
        policies: those of the study's rows.
        device: where it will be trained; None where that is another machine's business.
        seeds: it will be trained with: which class gives an image more differs from seed to seed.
    """
    model = check_network(training, source, policies)
    check_recipe(training, source, model)
    _check_single_images(model, training, source)
    if training.train_size is not None and training.train_size < source.num_classes:
        raise ValueError(
            f"--train-size {training.train_size} leaves classes of {source.name} without a "
            f"training image; give {source.num_classes}, one a class, or more"
        )
    if source.holds_images and min(source.shape[1:]) <= training.translate:
        raise ValueError(
            f"--translate {training.translate} would push images of {source.name} out, which are "
            f"{source.shape[1]}x{source.shape[2]} pixels; give a smaller one"
        )
    for seed in seeds:
        draw_labels(replace(training, seed=seed), source)
    for policy in policies:
        if policy.kind.startswith(("cutmix", "scores-area")) and len(source.shape) < 2:
            raise ValueError(
                f"policy {policy.kind} pastes boxes, and an item of {source.name} is "
                f"{list(source.shape)}; leave its row out by --rows"
            )
    if device is not None:
        check_precision(training.precision, device)


def slow_precision(trainings: Iterable[TrainingConfig], device: str) -> str | None:
    """Returns what to say where this machine trains many times as slowly as it could."""
    slow = {t.precision for t in trainings if is_emulated(t.precision, device)}
    if not slow:
        return None
    return (
        f"precision {', '.join(sorted(slow))}: this processor has no such arithmetic, and "
        "convolutions take many times as long as in float32; leave off by Ctrl-C and give "
        "--precision float32 to train in that"
    )


def _check_single_images(model: nn.Module, training: TrainingConfig, source: Source) -> None:
    """Raises where a batch of one image has nothing that BatchNorm could normalize."""
    for name in ("batch_size", "meta_batch_size"):
        if getattr(training, name) == 1:
            try:
                model(torch.zeros(1, *source.shape))
            except ValueError as error:
                raise ValueError(
                    f"{flag(name)} 1 is too small for {training.model}, whose BatchNorm needs more "
                    f"than one value a channel ({error}); give 2 or more"
                ) from error

"""This module reads logits and losses at the present parameters, without side effect."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Module

from core.mixing.batch import Batch, Loss
from core.mixing.losses import check_logits
from core.mixing.weighting import sample_losses
from core.random_streams import forked
from core.user_model.logits import taken
from core.user_model.other_values import with_values
from core.user_model.untouched import untouched
from core.user_model.wrapped_models import logits_of, unwrap


def logits_now(model: Module, x: Tensor) -> Tensor:
    """Returns the logits of a batch, [B, C], as the training step to come sees them, detached.

    The pass is in the model's own mode and with the dropout masks that the real step will draw. No
    buffer moves, and the random stream stands where it stood.

    Args:
        model: maps x [n, ...] to logits [n, C], with what training loops wrap around it.
        x: [B, ...], floating.
    """
    module, way = unwrap(model), logits_of(model)
    named = [*module.named_parameters(), *module.named_buffers()]
    copies = {name: value.detach().clone() for name, value in named}
    devices = (value.device for value in copies.values())
    with torch.no_grad(), forked(devices), untouched(module):
        output = with_values(module, copies, x.clone())
        return check_logits(output if way is None else taken(output, way), len(x))


def losses_now(model: Module, batch: Batch, loss: Loss) -> Tensor:
    """Returns the loss of each sample, [B], by `logits_now`.

    Args:
        model: maps x [n, ...] to logits [n, C], with what training loops wrap around it.
        batch: x [B, ...] floating; y [B] integer or [B, C] soft.
        loss: see `core.mixing.weighting.sample_losses`.

    Raises:
        ValueError: as `core.mixing.weighting.sample_losses`.
    """
    x, y = batch
    logits = logits_now(model, x)
    ones = torch.ones(len(x), dtype=logits.dtype, device=x.device)
    return sample_losses(loss, logits, y.clone(), ones, torch.arange(len(x), device=x.device))

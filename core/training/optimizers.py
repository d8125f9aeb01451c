"""The optimizer of a training and its learning rate at each step, from its configuration."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

from core.data.imported import called, named_arguments
from core.training.config import TrainingConfig


def build_optimizer(config: TrainingConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Returns the optimizer over all parameters of `model`, as `config.optimizer` names it.

    "sgd" takes `config.momentum` and adds weight_decay · θ to the gradient. "adam" does the latter
    too, and keeps β = (0.9, 0.999) in place of a momentum. "adamw" is Adam whose decay stands apart
    from the gradient, θ ← (1 − lr · weight_decay) · θ, and touches the weights of convolutions,
    linear layers and attention alone: no bias and no BatchNorm. This is MixMatch's rule
    (google-research/mixmatch decays what is named "kernel"; it does so after the step of Adam,
    `torch.optim.AdamW` before).

    torch's fused kernels are taken where they change no stored result: on a GPU, and where
    precision or memory format were chosen. On the CPU they round otherwise than its loops.

    A factory of the user's is called with those of params, lr, momentum and weight_decay that its
    signature takes.

    The learning rate is `config.lr`; who trains sets it anew at each step by
    `learning_rate`, in every parameter group.
    """
    if ":" in config.optimizer:
        named_rate = named_arguments(config.optimizer)[1].get("lr", config.lr)
        if named_rate != config.lr:
            raise ValueError(
                f"optimizer {config.optimizer} and lr={config.lr} name two learning rates, and the "
                f"schedule begins with the second; give lr={named_rate}"
            )
        made = called(
            config.optimizer,
            params=list(model.parameters()),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        if not isinstance(made, torch.optim.Optimizer):
            raise ValueError(
                f"optimizer {config.optimizer} returned a {type(made).__name__}; return a "
                "torch.optim.Optimizer"
            )
        return made
    fused = _fused(config, next(model.parameters()).device.type)
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=fused,
        )
    if config.optimizer == "adam":
        return torch.optim.Adam(
            model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=fused
        )
    kernels = {id(p) for layer in model.modules() for p in _kernels(layer)}
    decayed = [p for p in model.parameters() if id(p) in kernels]
    spared = [p for p in model.parameters() if id(p) not in kernels]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": spared, "weight_decay": 0.0},
        ],
        lr=config.lr,
        fused=fused,
    )


def _kernels(layer: nn.Module) -> Iterator[nn.Parameter]:
    """Yields the weights of a convolution, a linear layer or an attention's projections, also where
    the weight is computed from others, as `weight_norm` does."""
    if isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)):
        for name, parameter in layer.named_parameters():
            if name.startswith(("weight", "parametrizations.weight")):
                yield parameter
    elif isinstance(layer, nn.MultiheadAttention):
        for name, parameter in layer.named_parameters(recurse=False):
            if name.endswith("proj_weight"):
                yield parameter


def _fused(config: TrainingConfig, device_type: str) -> bool | None:
    """Returns whether to ask for the fused kernels; None leaves the choice to torch."""
    chosen = config.precision != "float32" or config.memory_format != "contiguous"
    return True if device_type == "cuda" or (chosen and device_type == "cpu") else None


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """Returns the rate of step `step` of `steps` (both over the whole training)."""
    warming = config.warmup_epochs * steps // config.epochs
    return _scheduled(config, step, steps) * min(1.0, (step + 1) / max(1, warming))


def _scheduled(config: TrainingConfig, step: int, steps: int) -> float:
    if ":" in config.schedule:
        rate = called(config.schedule, step=step, steps=steps, epochs=config.epochs, lr=config.lr)
        try:
            return float(rate)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"schedule {config.schedule} gives the rate {rate!r} at step {step} of {steps}; "
                "return a number"
            ) from error
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * step / steps))
    epoch = step * config.epochs // steps
    return config.lr * config.lr_decay ** sum(epoch >= m for m in config.milestones)

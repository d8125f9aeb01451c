"""This module looks at a model, an optimizer and batches for what learning λ would stumble over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from core.meta.examination.report import EngineResult, Finding
from core.meta.inner_step import LearningRate, current_rates
from core.mixing.batch import Batch

_HOOKS = {
    "_forward_pre_hooks": "before forward",
    "_forward_hooks": "forward",
    "_backward_pre_hooks": "before backward",
    "_backward_hooks": "backward",
}

_DRY_RATE = 0.01
"""Stands for rates that are missing or 0, so that there is a virtual step to look at."""


def usable(batch: Batch, name: str) -> tuple[Batch, list[Finding]]:
    """Returns a batch with 0 for what is not finite, and what is to be said of it."""
    notes: list[Finding] = []
    values: list[Tensor] = []
    for what, tensor in zip(("inputs", "labels"), batch, strict=True):
        bad = ~tensor.isfinite()
        values.append(tensor.nan_to_num(0, 0, 0) if bool(bad.any()) else tensor)
        if bool(bad.any()):
            first = int(bad.reshape(len(tensor), -1).any(1).nonzero()[0])
            text = (
                f"{int(bad.sum())} of the {name} {what} are not finite, first in sample {first}; "
                "hypergradients that are not finite move nothing, and the real step has no such "
                "guard. Clean the data; 0 stands for them here."
            )
            notes.append(Finding("data", (f"{name} {what}",), text))
    return (values[0], values[1]), notes


def usable_rates(
    module: nn.Module, optimizer: torch.optim.Optimizer | None, lr: LearningRate | None
) -> tuple[dict[str, float], list[Finding]]:
    """Returns the rate of each trained parameter, and what is to be said of the optimizer.

    Raises:
        ValueError: neither `optimizer` nor `lr` is given.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    dry = dict.fromkeys(trained, _DRY_RATE)
    notes: list[Finding] = []
    rates: Mapping[str, float]
    if lr is not None:
        rates = lr if isinstance(lr, Mapping) else dict.fromkeys(trained, float(lr))
    elif optimizer is None:
        raise ValueError("give the virtual step its learning rate by `optimizer` or `lr`")
    else:
        try:
            rates = current_rates(optimizer, dict(module.named_parameters()))
        except ValueError as error:
            return dry, [Finding("optimizer", (), f"{error}.")]
        notes += _lacking(trained, optimizer)
    rates = {name: rates.get(name, 0.0) for name in trained}
    if not any(rates.values()):
        text = (
            "All learning rates are 0, as in the first step of a warm-up: the virtual step goes "
            f"nowhere, and λ is not moved. {_DRY_RATE} stands for them here."
        )
        return dry, [*notes, Finding("optimizer", (), text)]
    return rates, notes


def _lacking(trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> Iterator[Finding]:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    lacking = [name for name, p in trained.items() if id(p) not in held]
    if lacking:
        text = (
            f"The optimizer lacks {listed(lacking)}, so the virtual step takes them for constants, "
            "and the real step leaves them alone; add them to a parameter group, freeze them, or "
            "leave them to their other optimizer knowingly."
        )
        yield Finding("optimizer", tuple(lacking), text)


def hooks(module: nn.Module) -> Iterator[Finding]:
    """Yields what is to be said of hooks, those of torch's own layers left out."""
    firing = [
        f"{name or type(layer).__name__} ({words})"
        for name, layer in module.named_modules()
        for register, words in _HOOKS.items()
        if any(not _of_torch(hook) for hook in getattr(layer, register).values())
    ]
    if firing:
        text = (
            f"Hooks of {listed(firing)} fire in all three passes of a step (virtual, validation "
            "and real); what they count or collect, they count three times. Remove them while λ "
            "is learned, or let them look at the real pass alone."
        )
        yield Finding("hooks", tuple(firing), text)
    silent = [
        name
        for name, p in module.named_parameters()
        if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None)
    ]
    if silent:
        text = (
            f"Gradient hooks of {listed(silent)} act in the real step alone: the virtual step has "
            "no mask and no clipping of theirs. Mask the weight in the forward pass "
            "(torch.nn.utils.parametrize) where the virtual step is to see it."
        )
        yield Finding("gradient hooks", tuple(silent), text)


def mode(module: nn.Module) -> Iterator[Finding]:
    """Yields what is to be said where the model is not as it is trained, or its numbers are bad."""
    if not module.training:
        text = (
            "The model is in evaluation mode: dropout is off and BatchNorm takes its running "
            "statistics. Call model.train() first, if it is trained so."
        )
        yield Finding("mode", (), text)
    bad = [
        name
        for name, p in (*module.named_parameters(), *module.named_buffers())
        if p.is_floating_point() and not bool(p.isfinite().all())
    ]
    if bad:
        text = f"{listed(bad)} hold numbers that are not finite; nothing can be learned from there."
        yield Finding("data", tuple(bad), text)


def state(changed: Iterable[str]) -> Iterator[Finding]:
    """Yields what is to be said of what passes changed besides parameters and buffers."""
    if names := tuple(changed):
        text = (
            f"Each pass changes {listed(names)}, which are no parameters or buffers of the model, "
            "so the three passes of a step (virtual, validation and real) change them three "
            "times, and the engines may see different values. Register tensors by "
            "register_buffer and networks as submodules, and draw from torch's global stream."
        )
        yield Finding("state", names, text)


def written(names: Iterable[str]) -> Iterator[Finding]:
    """Yields what is to be said of parameters that forward passes write to."""
    if names := tuple(names):
        text = (
            f"The forward pass writes to {listed(names)}, as momentum encoders and norm limits "
            "do. That is right as it is: the meta stage works on copies, and only the real pass "
            "moves them, as in plain training."
        )
        yield Finding("parameters written", names, text)


def operations(names: Iterable[str], auto: bool) -> Iterator[Finding]:
    """Yields what is to be said of operations without a second derivative in torch.

    Args:
        names: by torch's names.
        auto: whether engine "auto" works nevertheless.
    """
    if names := tuple(names):
        text = f"torch has no second derivative of {listed(names)}. " + (
            'engine="auto" has a form of its own for that, the other exact engines may not.'
            if auto
            else 'Take engine="finite_difference", or another operation in their place; attention '
            "that is forced to a fused kernel has one where the kernel is left to torch."
        )
        yield Finding("operations", names, text)


def engines(results: Iterable[EngineResult]) -> Iterator[Finding]:
    """Yields what is to be said of exact engines that are not."""
    for result in results:
        if result.error is None or result.error != result.error:
            text = (
                f'The hypergradient of engine="{result.engine}" is not finite. Lower the learning '
                "rate, or look for logarithms and roots of 0 in the model and the loss."
            )
        else:
            text = (
                f'engine="{result.engine}" is {result.error:.1e} from central differences of plain '
                "training. Differences also see what autograd is told not to: values under "
                "torch.no_grad, detached ones, and straight-through estimators. If there are none, "
                "float32 is too coarse here (exploding activations, BatchNorm of few values): "
                "examine the model in float64 (model.double())."
            )
        yield Finding("engines", (result.engine,), text)


def listed(names: Iterable[str]) -> str:
    """Returns names for a sentence, the first five of many."""
    names = list(names)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _of_torch(hook: Any) -> bool:
    home = getattr(hook, "__module__", None) or type(hook).__module__
    return str(home).partition(".")[0] == "torch"

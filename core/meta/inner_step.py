"""This module takes the virtual step θ → θ′ (Eq. 7), differentiable in the gradient.

Optimizers are made differentiable by the `higher` library. Three of its details differ from
`torch.optim` and are put right here, so that θ′ is the optimizer's own step to rounding: the place
of Adam's epsilon, its step count (a float32 tensor in torch's state), and `maximize`, which it
ignores and we refuse. `higher` has no AdamW; ours adds the decoupled decay to its Adam. At units
that never had a gradient its centered RMSprop has no derivative; ours has.

The `differentiable=True` of torch's own optimizers does not serve: the first step with momentum is
cut off from the gradient, and Adam's derivative is NaN wherever a gradient is 0.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

with warnings.catch_warnings():
    # Python warns of two lines of the last release, 0.2.1, where it is not compiled yet; under
    # `-W error`, as in pytest, these would be the end of `import core`.
    warnings.simplefilter("ignore")
    import higher
    from higher.optim import DifferentiableAdam, DifferentiableOptimizer

LearningRate = float | Mapping[str, float]
"""One rate for all parameters, or one for each parameter name."""

_TRAINING_LIBRARIES = ("accelerate", "lightning", "lightning_fabric", "pytorch_lightning")
"""Packages whose wrappers of an optimizer step as it does."""
_WAY_OUT = 'use Reading(inner_step="gradient_descent") or pass `lr` instead of `optimizer`'


class _DifferentiableAdamW(DifferentiableAdam):
    """AdamW is Adam with decoupled decay, θ ← (1 − lr·wd)·θ before it (Loshchilov & Hutter)."""

    def _update(self, grouped_grads: list[list[Tensor | None]], **kwargs: Any) -> None:
        decays = [group["weight_decay"] for group in self.param_groups]
        for group, grads, decay in zip(self.param_groups, grouped_grads, decays, strict=True):
            shrink = 1 - group["lr"] * decay
            group["params"] = [
                p if g is None else p * shrink for p, g in zip(group["params"], grads, strict=True)
            ]
            group["weight_decay"] = 0
        super()._update(grouped_grads, **kwargs)
        for group, decay in zip(self.param_groups, decays, strict=True):
            group["weight_decay"] = decay


class _DifferentiableRMSprop(DifferentiableOptimizer):
    """RMSprop as torch takes it, with a derivative at units that never had a gradient.

    There the root is one of 0. `higher` masks its derivative for the mean square alone, not for the
    variance of `centered`, which gives NaN.
    """

    def _update(self, grouped_grads: list[list[Tensor | None]], **kwargs: Any) -> None:
        for group, states, grads in zip(self.param_groups, self.state, grouped_grads, strict=True):
            for i, g in enumerate(grads):
                if g is None:
                    continue
                p, state, kept = group["params"][i], states[i], group["alpha"]
                g = g + group["weight_decay"] * p
                square = kept * state.get("square_avg", 0) + (1 - kept) * g.square()
                state["square_avg"] = spread = square
                if group["centered"]:
                    mean = kept * state.get("grad_avg", 0) + (1 - kept) * g
                    state["grad_avg"], spread = mean, square - mean.square()
                none = spread == 0
                root = spread.masked_fill(none, 1).sqrt().masked_fill(none, 0)
                move = g / (root + group["eps"])
                if group["momentum"] > 0:
                    move = group["momentum"] * state.get("momentum_buffer", 0) + move
                    state["momentum_buffer"] = move
                group["params"][i] = p - group["lr"] * move


higher.optim.register_optim(torch.optim.AdamW, _DifferentiableAdamW)
higher.optim.register_optim(torch.optim.RMSprop, _DifferentiableRMSprop)


def current_rates(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]
) -> dict[str, float]:
    """Returns each parameter's learning rate by name; 0 for one that the optimizer does not hold.

    Args:
        optimizer: any torch optimizer.
        parameters: name → parameter, as `model.named_parameters()` gives them.

    Raises:
        ValueError: a group has no learning rate, or no parameter of the model is in any group; or
            the optimizer maximizes.
    """
    check_descends(optimizer)
    by_id: dict[int, float] = {}
    for group in optimizer.param_groups:
        if group.get("lr") is None:
            raise ValueError(
                f"{type(optimizer).__name__} names no learning rate in a parameter group, which "
                "the virtual step needs; give it as `lr`"
            )
        by_id |= {id(p): float(group["lr"]) for p in group["params"]}
    if not by_id.keys() & {id(p) for p in parameters.values()}:
        raise ValueError(
            "the optimizer holds no parameter of this model, so its step would not move the model; "
            "pass the model whose parameters the optimizer was made with"
        )
    return {name: by_id.get(id(p), 0.0) for name, p in parameters.items()}


def check_descends(optimizer: torch.optim.Optimizer) -> None:
    """Raises ValueError where the real step climbs: λ would be learned for its opposite."""
    if any(group.get("maximize") for group in optimizer.param_groups):
        raise ValueError(
            f"{type(optimizer).__name__}(maximize=True) climbs the loss, and λ is learned for a "
            "step that descends it; give the loss its other sign, and leave `maximize` out"
        )


def refuse_step_hooks(optimizer: torch.optim.Optimizer, way_out: str) -> None:
    """Raises ValueError where hooks of the optimizer may change its step, which no copy calls."""
    if any(getattr(optimizer, f"_optimizer_step_{when}_hooks", None) for when in ("pre", "post")):
        raise ValueError(
            f"{type(optimizer).__name__} has hooks around its step, which a step ahead does not "
            f"call; call them in the loop, before and after optimizer.step(), or {way_out}"
        )


def descend(
    theta: Sequence[Tensor], gradient: Sequence[Tensor], rates: Sequence[float]
) -> list[Tensor]:
    """Takes a step of plain descent, θ′ = θ − η·g (Eq. 7), with a rate for each parameter."""
    return [torch.sub(p, g, alpha=rate) for p, g, rate in zip(theta, gradient, rates, strict=True)]


def gradient_descent(
    parameters: Sequence[Tensor], rates: Sequence[float]
) -> DifferentiableOptimizer:
    """Returns plain gradient descent as a `higher` optimizer, with a rate for each parameter."""
    groups = [
        {"params": [p], "lr": rate}
        for p, rate in zip(parameters, rates, strict=True)
        if p.requires_grad
    ]
    return differentiable(torch.optim.SGD(cast(Any, groups), lr=1.0), parameters)


def differentiable(
    optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]
) -> DifferentiableOptimizer:
    """Returns a differentiable copy of `optimizer` in its present state, which stays untouched.

    Args:
        optimizer: one of the types that `higher` or this module makes differentiable, among them
            SGD (momentum, Nesterov, weight decay, dampening), Adam and AdamW; or a training
            library's wrapper that has it as its attribute `optimizer`.
        parameters: the model's parameters; each one that the optimizer holds must be among them.

    Raises:
        ValueError: the optimizer's type has no differentiable form, it wraps another one and steps
            otherwise, has hooks around its step, maximizes, is an Adam with decoupled decay, or
            holds a parameter that is not the model's, or a complex one and is not SGD.
    """
    optimizer = unwrapped(optimizer)
    kind = type(optimizer).__name__
    check_descends(optimizer)
    refuse_step_hooks(optimizer, _WAY_OUT)
    known = {id(p) for p in parameters}
    for group in optimizer.param_groups:
        if type(optimizer) is torch.optim.Adam and group.get("decoupled_weight_decay"):
            raise ValueError(
                "Adam(decoupled_weight_decay=True) has no differentiable step here; "
                f"use torch.optim.AdamW, or {_WAY_OUT}"
            )
        for p in group["params"]:
            if id(p) not in known:
                raise ValueError(
                    f"the optimizer holds a parameter of shape {list(p.shape)} that is not the "
                    f"model's; {_WAY_OUT}"
                )
            # torch keeps squares of real and imaginary part, `higher` those of the complex number.
            if p.is_complex() and type(optimizer) is not torch.optim.SGD:
                raise ValueError(
                    f"{kind} has no differentiable step of complex parameters here; {_WAY_OUT}"
                )
    try:
        copy = higher.optim.get_diff_optim(optimizer, parameters)
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"the `higher` library has no differentiable form of {kind}; {_WAY_OUT}"
        ) from error
    for state in copy.state:
        for entry in state.values():
            if isinstance(entry.get("step"), Tensor):
                entry["step"] = int(entry["step"])
    if isinstance(copy, DifferentiableAdam):
        _place_epsilon(copy)
    return cast(DifferentiableOptimizer, copy)


def unwrapped(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Returns what a training library's wrapper holds; one with a step of its own is refused."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        kind = type(optimizer)
        steps = next(base for base in kind.__mro__ if "step" in vars(base))
        passed_on = steps.__module__.partition(".")[0] in _TRAINING_LIBRARIES
        if not (passed_on or issubclass(type(inner), steps)):
            raise ValueError(
                f"{kind.__name__} wraps {type(inner).__name__} and has a step of its own, of which "
                "there is no differentiable form; pass its attribute `optimizer` if it steps as "
                f"that does, else {_WAY_OUT}"
            )
        optimizer = inner
    return optimizer


def _place_epsilon(adam: DifferentiableAdam) -> None:
    """Gives `higher`'s Adam the epsilon that makes its step equal to torch's.

    torch divides by `√v/√b2 + ε`, `higher` multiplies by √b2 and divides by `√v + ε`, with
    b2 = 1 − β2^t: the same where the latter's ε is ε·√b2 at the step about to be taken. Parameters
    may differ in t (one that came into use late), so each becomes a group of its own.
    """
    groups, states, places = [], [], []
    for group, state, indices in zip(
        adam.param_groups, adam.state, adam._group_to_param_list, strict=True
    ):
        for i, index in enumerate(indices):
            taken = state[i].get("step", 0)
            eps = group["eps"] * (1 - group["betas"][1] ** (taken + 1)) ** 0.5
            groups.append({**group, "params": [None], "eps": eps})
            states.append(defaultdict(dict, {0: state[i]}))
            places.append([index])
    adam.param_groups, adam.state, adam._group_to_param_list = groups, states, places

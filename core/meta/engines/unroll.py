"""This engine is reverse mode through the virtual step, as the `higher` library unrolls it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.autograd.graph import disable_saved_tensors_hooks

from core.meta.engines.any_order import Watch, in_any_order
from core.meta.engines.once import (
    refuse_cut_gradients,
    refuse_once_differentiable,
    refuse_other_parameters,
)
from core.meta.inner_step import differentiable, gradient_descent
from core.meta.problem import MetaGradient, MetaProblem
from core.user_model.precision import outside_autocast


def unroll(problem: MetaProblem) -> MetaGradient:
    """Goes in reverse mode through the whole virtual step, as `higher` unrolls it. Exact.

    Raises:
        ValueError: the model uses activation checkpointing, which would run its parts again for θ
            and for θ′ in one and the same backward pass; or the caller gave the validation
            gradient, which an unroll never has; or there are several ranks; or something in the
            model or the loss is differentiable once only.
    """
    earlier = problem.validation_gradient is not None or problem.averaged is not None
    if earlier or problem.ranks.size > 1:
        what = "several ranks" if problem.ranks.size > 1 else "a kept validation gradient"
        raise ValueError(f'engine "unroll" cannot work with {what}; use engine="auto"')
    return in_any_order(problem, Watch(), lambda mode: _stage(problem, mode))


def _stage(problem: MetaProblem, mode: contextlib.AbstractContextManager[Any]) -> MetaGradient:
    if problem.optimizer is not None:
        step = differentiable(problem.optimizer, list(problem.originals.values()))
        names = list(problem.originals)
        theta = [problem.theta.get(name, p.detach()) for name, p in problem.originals.items()]
    else:
        names, theta = list(problem.theta), list(problem.theta.values())
        step = gradient_descent(theta, problem.rates())

    def descend() -> tuple[Tensor, list[Tensor]]:
        with mode:
            loss = problem.virtual_loss()
        refuse_other_parameters(loss, problem.theta, problem.originals, problem.others)
        with outside_autocast(problem.lam.device.type), refuse_cut_gradients(loss):
            return loss, step.step(
                loss * problem.scale, params=theta, grad_callback=lambda g: _checked(problem, g)
            )

    with _no_saved_tensor_hooks():
        virtual_loss, stepped = problem.at(problem.theta, descend)
        prime = dict(zip(names, stepped, strict=True))
        meta_loss = problem.at({name: prime[name] for name in problem.theta}, problem.meta_loss)
    hypergradient = problem.slope(meta_loss * problem.scale)
    return MetaGradient(problem.unscaled(hypergradient), meta_loss.detach(), virtual_loss.detach())


def _checked(problem: MetaProblem, grads: list[Tensor | None]) -> list[Tensor | None]:
    """Returns the gradients as the step takes them: unscaled, and differentiable once more."""
    refuse_once_differentiable(grads)
    return [None if g is None else problem.unscaled(g) for g in grads]


@contextlib.contextmanager
def _no_saved_tensor_hooks() -> Iterator[None]:
    """Refuses what installs them, which is how activation checkpointing works."""
    message = (
        'engine "unroll" cannot recompute checkpointed activations, nor work under other '
        "saved-tensor hooks: θ and θ′ meet in one backward pass, and the model can be at one of "
        'them only; use engine="auto"'
    )
    try:
        with disable_saved_tensors_hooks(message):
            yield
    except RuntimeError as error:
        if message not in str(error):
            raise
        raise ValueError(message) from None

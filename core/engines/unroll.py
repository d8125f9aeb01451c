"""Reverse mode through the whole virtual step, as the `higher` library unrolls it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from core.inner_step import differentiable, gradient_descent
from core.meta_problem import MetaGradient, MetaProblem


def unroll(problem: MetaProblem) -> MetaGradient:
    """Reverse mode through the whole virtual step, as `higher` unrolls it. Exact."""
    names = list(problem.theta)
    theta = list(problem.theta.values())
    if problem.optimizer is not None:
        step = differentiable(problem.optimizer, list(problem.originals.values()))
        names_all, theta_all = list(problem.originals), []
        for name in names_all:
            theta_all.append(problem.theta.get(name, problem.originals[name].detach()))
    else:
        step = gradient_descent(theta, problem.rates())
        names_all, theta_all = names, theta
    virtual_loss = problem.virtual_loss(problem.theta)
    stepped = step.step(
        virtual_loss * problem.scale, params=theta_all, grad_callback=_unscale(problem)
    )
    prime = dict(zip(names_all, stepped, strict=True))
    meta_loss = problem.meta_loss({name: prime[name] for name in names})
    (hypergradient,) = torch.autograd.grad(meta_loss * problem.scale, problem.lam)
    return MetaGradient(hypergradient / problem.scale, meta_loss.detach(), virtual_loss.detach())


def _unscale(
    problem: MetaProblem,
) -> Callable[[list[Tensor | None]], list[Tensor | None]] | None:
    if problem.scale == 1:
        return None
    return lambda grads: [None if g is None else g / problem.scale for g in grads]

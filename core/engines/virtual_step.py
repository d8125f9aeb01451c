"""The virtual step and its transposed derivative, for engines that keep no graph of it.

θ′ = θ′(g) is a function of the gradient g of the mixed batch. The hypergradient is
`⟨∂g/∂λ, w⟩` with w = (∂θ′/∂g)ᵀ v, v the gradient of the validation loss at θ′.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.inner_step import descend, differentiable
from core.meta_problem import MetaProblem


def cotangent(
    problem: MetaProblem, gradient: Sequence[Tensor | None]
) -> tuple[list[Tensor], Tensor]:
    """w of the gradient g, and the validation loss at θ′.

    Args:
        problem: what is differentiated.
        gradient: g of each parameter in `problem.theta`, times `problem.scale`; None where the
            virtual loss does not use it.

    Returns:
        w, one tensor for each parameter (0 where g is None), and a scalar. All detached.
    """
    theta = list(problem.theta.values())
    filled = [
        torch.zeros_like(p) if g is None else _over(g.detach(), problem.scale)
        for p, g in zip(theta, gradient, strict=True)
    ]
    if problem.optimizer is None:
        rates = problem.rates()
        meta_loss, v = _meta_gradient(problem, descend(theta, filled, rates))
        return [-rate * g for rate, g in zip(rates, v, strict=True)], meta_loss
    leaves = [g.detach().requires_grad_() for g in filled]
    used = [i for i, g in enumerate(gradient) if g is not None]
    stepped = _optimizer_step(problem, leaves, used)
    meta_loss, v = _meta_gradient(problem, stepped)
    differentiable_at = [i for i, p in enumerate(stepped) if p.requires_grad]
    w = torch.autograd.grad(
        [stepped[i] for i in differentiable_at],
        leaves,
        [v[i] for i in differentiable_at],
        allow_unused=True,
        materialize_grads=True,
    )
    return list(w), meta_loss


def _meta_gradient(problem: MetaProblem, prime: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The validation loss at θ′ and its gradient v there, parameters it does not use given 0."""
    leaves = [p.detach().requires_grad_() for p in prime]
    meta_loss = problem.meta_loss(dict(zip(problem.theta, leaves, strict=True)))
    v = torch.autograd.grad(
        meta_loss * problem.scale, leaves, allow_unused=True, materialize_grads=True
    )
    return meta_loss.detach(), [_over(g, problem.scale) for g in v]


def _over(g: Tensor, scale: float) -> Tensor:
    return g if scale == 1 else g / scale


def _optimizer_step(problem: MetaProblem, gradient: list[Tensor], used: list[int]) -> list[Tensor]:
    """θ′ of the user's optimizer as a function of the gradient g, through `higher`.

    Its `step` takes a loss, so it is given the linear one whose gradient is g.
    """
    assert problem.optimizer is not None
    step = differentiable(problem.optimizer, list(problem.originals.values()))
    theta = {name: p.detach().requires_grad_() for name, p in problem.theta.items()}
    names = list(theta)
    linear = torch.stack([(theta[names[i]] * gradient[i]).sum() for i in used]).sum()
    params = [theta.get(name, p.detach()) for name, p in problem.originals.items()]
    stepped = dict(zip(problem.originals, step.step(linear, params=params), strict=True))
    return [stepped[name] for name in names]

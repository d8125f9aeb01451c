"""This module takes the virtual step, and its transposed derivative without keeping a graph.

θ′ = θ′(g) is a function of the gradient g of the mixed batch. The hypergradient is
`⟨∂g/∂λ, w⟩` with w = (∂θ′/∂g)ᵀ v, v the gradient of the validation loss at θ′.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.meta.engines.once import refuse_other_parameters
from core.meta.inner_step import descend, differentiable
from core.meta.problem import MetaProblem, Validation


def direction(problem: MetaProblem) -> tuple[list[Tensor], Validation]:
    """Returns the `cotangent` w by first-order passes alone, for engines that look at L along w.

    Where v is given and the step is plain descent, w does not depend on the gradient of the mixed
    batch, and that gradient is not computed.
    """
    if problem.validation_gradient is not None and problem.optimizer is None:
        return cotangent(problem, [None] * len(problem.theta))
    theta = list(problem.theta.values())

    def differentiate() -> tuple[Tensor | None, ...]:
        loss = problem.virtual_loss()
        refuse_other_parameters(loss, problem.theta, problem.originals, problem.others)
        return problem.gradients(loss * problem.scale, theta)

    return cotangent(problem, problem.at(problem.theta, differentiate))


def cotangent(
    problem: MetaProblem, gradient: Sequence[Tensor | None]
) -> tuple[list[Tensor], Validation]:
    """Returns w, from the gradient g of the mixed batch.

    Args:
        problem: what is differentiated. Where it gives v, no virtual step is taken and, for plain
            descent, g is not read.
        gradient: g of each parameter in `problem.theta`, times `problem.scale`; None where the
            virtual loss does not use it.

    Returns:
        w, one tensor for each parameter (0 where g is None), and validation loss and gradient.
        All detached.
    """
    if problem.optimizer is None:
        rates = problem.rates()
        theta = list(problem.theta.values())
        validation = problem.validation_gradient or problem.validation_at(
            descend(theta, _filled(problem, gradient), rates)
        )
        return [-rate * g for rate, g in zip(rates, validation[1], strict=True)], validation
    leaves = [g.detach().requires_grad_() for g in _filled(problem, gradient)]
    stepped = _optimizer_step(problem, leaves, _used(problem, gradient))
    validation = problem.validation_gradient or problem.validation_at(stepped)
    differentiable_at = [i for i, p in enumerate(stepped) if p.requires_grad]
    w = torch.autograd.grad(
        [stepped[i] for i in differentiable_at],
        leaves,
        [validation[1][i] for i in differentiable_at],
        allow_unused=True,
        materialize_grads=True,
    )
    return list(w), validation


def _filled(problem: MetaProblem, gradient: Sequence[Tensor | None]) -> list[Tensor]:
    """Returns g of every parameter, unscaled and averaged over the ranks."""
    return problem.ranks.mean(
        [
            torch.zeros_like(p) if g is None else problem.unscaled(g.detach())
            for p, g in zip(problem.theta.values(), gradient, strict=True)
        ]
    )


def _used(problem: MetaProblem, gradient: Sequence[Tensor | None]) -> list[int]:
    """Returns which parameters have a gradient on some rank: an optimizer leaves others alone."""
    used = [g is not None for g in gradient]
    if problem.ranks.size > 1:
        flags = torch.tensor(used, dtype=torch.float32, device=problem.lam.device)
        used = problem.ranks.largest(flags).bool().tolist()
    return [i for i, u in enumerate(used) if u]


def _optimizer_step(problem: MetaProblem, gradient: list[Tensor], used: list[int]) -> list[Tensor]:
    """Returns θ′ of the user's optimizer as a function of the gradient g, through `higher`.

    Its `step` takes a loss, so it is given the linear one whose gradient is g.
    """
    assert problem.optimizer is not None
    step = differentiable(problem.optimizer, list(problem.originals.values()))
    theta = {name: p.detach().requires_grad_() for name, p in problem.theta.items()}
    names = list(theta)
    linear = torch.stack([_inner(theta[names[i]], gradient[i]) for i in used]).sum()
    params = [theta.get(name, p.detach()) for name, p in problem.originals.items()]
    stepped = dict(zip(problem.originals, step.step(linear, params=params), strict=True))
    return [stepped[name] for name in names]


def _inner(p: Tensor, g: Tensor) -> Tensor:
    """Returns the real number whose gradient with respect to p is g, of complex ones too."""
    return (p * g.conj()).real.sum()

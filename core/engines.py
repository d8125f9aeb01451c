"""The engines: different roads to the same derivative, each exact.

With L the loss of the mixed batch at θ, θ′ the parameters after one virtual step, and v the
gradient of the validation loss at θ′, the hypergradient is `(∂θ′/∂λ)ᵀ v`; for plain descent at
rate η it is `−∂/∂λ ⟨∇θ L(θ; λ), η·v⟩`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from core.inner_step import descend, differentiable, gradient_descent
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


def double_backward(problem: MetaProblem) -> MetaGradient:
    """The gradient of ⟨∇θ L(θ; λ), w⟩ with w = (∂θ′/∂g)ᵀ v held fixed. Exact.

    Against the unroll it keeps no graph of the virtual step and of the validation pass.
    """
    theta = list(problem.theta.values())
    virtual_loss = problem.virtual_loss(problem.theta)
    graph = torch.autograd.grad(
        virtual_loss * problem.scale, theta, create_graph=True, allow_unused=True
    )
    used = [i for i, g in enumerate(graph) if g is not None]
    gradient = [
        torch.zeros_like(p) if g is None else g.detach() / problem.scale
        for p, g in zip(theta, graph, strict=True)
    ]
    if problem.optimizer is None:
        rates = problem.rates()
        prime = [p.detach().requires_grad_() for p in descend(theta, gradient, rates)]
        meta_loss, v = _meta_gradient(problem, prime)
        cotangent = [-rate * g for rate, g in zip(rates, v, strict=True)]
    else:
        leaves = [g.requires_grad_() for g in gradient]
        stepped = _optimizer_step(problem, leaves, used)
        prime = [p.detach().requires_grad_() for p in stepped]
        meta_loss, v = _meta_gradient(problem, prime)
        differentiable_at = [i for i, p in enumerate(stepped) if p.requires_grad]
        cotangent = list(
            torch.autograd.grad(
                [stepped[i] for i in differentiable_at],
                leaves,
                [v[i] for i in differentiable_at],
                allow_unused=True,
                materialize_grads=True,
            )
        )
    (hypergradient,) = torch.autograd.grad(
        [graph[i] for i in used], problem.lam, [cotangent[i] for i in used]
    )
    return MetaGradient(hypergradient / problem.scale, meta_loss, virtual_loss.detach())


def _meta_gradient(problem: MetaProblem, prime: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The validation loss at θ′ and its gradient v there, parameters it does not use given 0."""
    meta_loss = problem.meta_loss(dict(zip(problem.theta, prime, strict=True)))
    v = torch.autograd.grad(
        meta_loss * problem.scale, prime, allow_unused=True, materialize_grads=True
    )
    return meta_loss.detach(), [g / problem.scale for g in v] if problem.scale != 1 else list(v)


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


def _unscale(
    problem: MetaProblem,
) -> Callable[[list[Tensor | None]], list[Tensor | None]] | None:
    if problem.scale == 1:
        return None
    return lambda grads: [None if g is None else g / problem.scale for g in grads]


ENGINES: dict[str, Callable[[MetaProblem], MetaGradient]] = {
    "unroll": unroll,
    "double_backward": double_backward,
}
"""By name, as `hypergradient` takes them."""

"""Vector double backward: the gradient of ⟨∇θ L(θ; λ), w⟩ with w held fixed."""

from __future__ import annotations

import torch

from core.engines.hand_derived import HandDerived
from core.engines.virtual_step import cotangent
from core.meta_problem import MetaGradient, MetaProblem


def double_backward(problem: MetaProblem) -> MetaGradient:
    """Reverse mode through the gradient of the mixed batch. Exact.

    Against the unroll it keeps no graph of the virtual step and of the validation pass.
    """
    theta = list(problem.theta.values())
    with HandDerived():
        virtual_loss = problem.virtual_loss(problem.theta)
    graph = torch.autograd.grad(
        virtual_loss * problem.scale, theta, create_graph=True, allow_unused=True
    )
    w, meta_loss = cotangent(problem, graph)
    used = [i for i, g in enumerate(graph) if g is not None]
    (hypergradient,) = torch.autograd.grad(
        [graph[i] for i in used], problem.lam, [w[i] for i in used]
    )
    return MetaGradient(hypergradient / problem.scale, meta_loss, virtual_loss.detach())

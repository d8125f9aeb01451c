"""w by first-order passes alone, for the engines that then look at L along w."""

from __future__ import annotations

import torch
from torch import Tensor

from core.meta.engines.virtual_step import cotangent
from core.meta.problem import MetaProblem, Validation


def direction(problem: MetaProblem) -> tuple[list[Tensor], Validation]:
    """`cotangent` at the gradient of the mixed batch, of which no graph is kept.

    Where v is known and the step is plain descent, w does not depend on that gradient, and it is
    not computed.
    """
    if problem.known is not None and problem.optimizer is None:
        return cotangent(problem, [None] * len(problem.theta))
    theta = list(problem.theta.values())

    def differentiate() -> tuple[Tensor | None, ...]:
        loss = problem.virtual_loss() * problem.scale
        return torch.autograd.grad(loss, theta, allow_unused=True)

    return cotangent(problem, problem.at(problem.theta, differentiate))

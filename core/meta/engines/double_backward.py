"""This engine differentiates ⟨∇θ L(θ; λ), w⟩ with w held fixed: vector double backward."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from core.meta.engines.any_order import in_any_order
from core.meta.engines.hand_derived.substitution import HandDerived
from core.meta.engines.once import (
    refuse_cut_gradients,
    refuse_once_differentiable,
    refuse_other_parameters,
)
from core.meta.engines.virtual_step import cotangent
from core.meta.problem import MetaGradient, MetaProblem


def double_backward(problem: MetaProblem) -> MetaGradient:
    """Goes in reverse mode through the gradient of the mixed batch. Exact.

    Against the unroll it keeps no graph of the virtual step and of the validation pass, and
    convolutions and BatchNorm are differentiated twice by hand-derived functions (PyTorch's own
    where the model or the loss takes a derivative itself, such as a gradient penalty).

    Raises:
        ValueError: something in the model or the loss is differentiable once only.
    """
    operations = HandDerived()
    return in_any_order(problem, operations, lambda mode: _stage(problem, operations, mode))


def _stage(
    problem: MetaProblem, operations: HandDerived, mode: AbstractContextManager[Any]
) -> MetaGradient:
    theta = list(problem.theta.values())

    def differentiate() -> tuple[Tensor, tuple[Tensor | None, ...]]:
        with mode:
            loss = problem.virtual_loss()
        refuse_other_parameters(loss, problem.theta, problem.originals, problem.others)
        with refuse_cut_gradients(loss):
            return loss, problem.gradients(loss * problem.scale, theta, create_graph=True)

    virtual_loss, graph = problem.at(problem.theta, differentiate)
    refuse_once_differentiable(graph)
    w, validation = cotangent(problem, graph)
    # A gradient may be a constant, such as that of the last bias under a hinge loss.
    pairs = [(g, along) for g, along in zip(graph, w, strict=True) if g is not None and g.grad_fn]

    def differentiate_again() -> Tensor:
        operations.wanted.weights = False
        return problem.slope([g for g, _ in pairs], [along for _, along in pairs])

    hypergradient = problem.unscaled(problem.at(problem.theta, differentiate_again))
    return MetaGradient(hypergradient, validation[0], virtual_loss.detach(), validation)

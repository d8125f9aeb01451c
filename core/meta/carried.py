"""This module carries dθ/dh of a hyperparameter h through the steps of SGD, in forward mode."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from core.meta.engines.any_order import Watch, in_any_order
from core.meta.engines.forward_reverse import (
    NoTangents,
    has_tangent,
    load_decompositions,
    needs_graph,
    refuse_scripted,
)
from core.meta.engines.once import refuse_cut_gradients
from core.meta.engines.replay import Replay
from core.meta.gradient import kernels_for
from core.meta.inner_step import refuse_step_hooks, unwrapped
from core.meta.problem import MetaProblem, Validation
from core.meta.refusals import named_refusals
from core.user_model.precision import loss_scaler, wide_dtype
from core.user_model.process_wide import dual_level

Tangents = dict[str, Tensor]


class CarriedTangent:
    """ż = dθ/dh and ḃ = db/dh, b the momentum, of a hyperparameter that λ depends on.

    A step of SGD is linear in what it is given, so the tangents take the same step (Franceschi et
    al. 2017, "Forward and reverse gradient-based hyperparameter optimization", RTHO):

        ġ = H ż + (∂g/∂λ) λ̇ + weight decay · ż,   ḃ ← μ ḃ + ġ,   ż ← ż − η ḃ

    where H ż + (∂g/∂λ) λ̇ is one forward pass of dual numbers and its backward pass. After each
    step both are multiplied by `carry`: what happened t steps ago counts carry^t.

    Args:
        carry: in [0, 1]; 1 is the whole horizon, 0 the last step alone.
    """

    def __init__(self, carry: float):
        self.carry = carry
        self._theta: Tangents = {}
        self._momentum: Tangents = {}

    @property
    def empty(self) -> bool:
        """Says whether nothing is carried yet, or any more."""
        return not self._theta

    def keep(self, names: Collection[str], device: torch.device) -> None:
        """Forgets all unless every weight that is followed is among those that move now.

        The others would still depend on h, and no derivative by them is taken.

        Args:
            names: of the weights that move.
            device: where they lie; what is carried may have been loaded to another one.
        """
        if not self._theta.keys() <= set(names):
            self.forget()
        self._theta, self._momentum = (
            {name: t.to(device) for name, t in tangents.items()}
            for tangents in (self._theta, self._momentum)
        )

    def derivative(self, problem: MetaProblem) -> tuple[float, Validation]:
        """Returns d(validation loss)/dh at the present parameters, and that loss with its gradient
        v, after at least one step."""
        loss, v = problem.validation_at(list(problem.theta.values()))
        terms = [
            (self._theta[name] * g).sum(dtype=wide_dtype(g.device))
            for name, g in zip(problem.theta, v, strict=True)
            if name in self._theta
        ]
        return float(torch.stack(terms).sum()), (loss, v)

    def follow(self, problem: MetaProblem, along: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Takes the step that the optimizer is about to take; forgets all where it overflows.

        Args:
            problem: at the parameters before the step, with its λ.
            along: [B], dλ/dh.
            optimizer: one that `check_sgd` lets pass.
        """
        self.keep(problem.theta, problem.lam.device)
        start = {
            name: self._theta.get(name, torch.zeros_like(p)) for name, p in problem.theta.items()
        }
        tangents = dict(zip(start, _tangent_of_gradient(problem, start, along), strict=True))
        if not all(bool(t.isfinite().all()) for t in tangents.values() if t is not None):
            # They would be NaN for good: what is carried begins anew.
            self.forget()
            return
        settings = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        for name, tangent in tangents.items():
            group = settings.get(id(problem.originals[name]))
            if group is None:
                continue
            if tangent is None:  # SGD leaves what has no gradient where it is, momentum and all
                self._theta[name] = self.carry * start[name]
                if name in self._momentum:
                    self._momentum[name] = self.carry * self._momentum[name]
                continue
            g = tangent + group["weight_decay"] * start[name]
            b = g
            if group["momentum"]:
                b = group["momentum"] * self._momentum[name] + g if name in self._momentum else g
                self._momentum[name] = self.carry * b
                b = g + group["momentum"] * b if group["nesterov"] else b
            self._theta[name] = self.carry * (start[name] - float(group["lr"]) * b)

    def forget(self) -> None:
        """Forgets all that is carried, so that it begins anew."""
        self._theta, self._momentum = {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Returns all that a resumed training needs."""
        return {"theta": dict(self._theta), "momentum": dict(self._momentum)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads what `state_dict` gave."""
        self._theta, self._momentum = dict(state["theta"]), dict(state["momentum"])


_WAY_OUT = "use core.LearnedBeta, which looks one step ahead"


def check_sgd(optimizer: torch.optim.Optimizer) -> None:
    """Raises ValueError unless tangents can follow its step, in the region of the caller."""
    optimizer = unwrapped(optimizer)
    if type(optimizer) is not torch.optim.SGD:  # a subclass may step otherwise
        raise ValueError(f"carry follows steps of SGD, got {type(optimizer).__name__}; {_WAY_OUT}")
    refuse_step_hooks(optimizer, _WAY_OUT)
    for group in optimizer.param_groups:
        if group["dampening"] or group["maximize"]:
            raise ValueError(f"carry follows SGD without dampening that descends; {_WAY_OUT}")
    if loss_scaler() is not None:
        raise ValueError(
            f"carry follows no step that a loss scale may skip; choose bf16, or {_WAY_OUT}"
        )


def _tangent_of_gradient(
    problem: MetaProblem, theta: Tangents, along: Tensor
) -> Iterable[Tensor | None]:
    """Returns the derivative of the mixed batch's gradient along ż and λ̇, averaged over ranks; None
    for parameters that have no gradient.

    Raises:
        ValueError: an operation of the model or of the loss has no forward derivative in torch, or
            a part of the model is compiled by `torch.jit`.
    """
    refuse_scripted(problem.model, _WAY_OUT)
    load_decompositions()
    with kernels_for("forward_reverse", problem.model), named_refusals("forward_reverse", _WAY_OUT):
        tangents = in_any_order(
            problem, Watch(), lambda mode: _dual_gradient(problem, theta, along, mode)
        )
    means = problem.ranks.mean(
        [
            torch.zeros_like(p) if t is None else t
            for p, t in zip(problem.theta.values(), tangents, strict=True)
        ]
    )
    alone = problem.ranks.size == 1
    return [None if alone and t is None else m for t, m in zip(tangents, means, strict=True)]


def _dual_gradient(
    problem: MetaProblem, theta: Tangents, along: Tensor, mode: AbstractContextManager[Any]
) -> list[Tensor | None]:
    """Returns the same on this rank; zeros for a gradient that does not depend on ż or λ̇."""
    leaves = [p.detach().requires_grad_() for p in problem.theta.values()]
    with Replay(problem.tensors, problem.model)(), dual_level(), NoTangents():
        dual = {
            name: forward_ad.make_dual(p, tangent)
            for (name, tangent), p in zip(theta.items(), leaves, strict=True)
        }
        moving = replace(problem, lam=forward_ad.make_dual(problem.lam.detach(), along))

        def differentiate() -> tuple[Tensor | None, ...]:
            with mode:
                loss = moving.virtual_loss()
            with refuse_cut_gradients(loss, has_tangent):
                return problem.gradients(loss, leaves, create_graph=needs_graph(loss))

        return [
            None if g is None else _tangent(forward_ad.unpack_dual(g))
            for g in problem.at(dual, differentiate)
        ]


def _tangent(dual: Any) -> Tensor:
    return torch.zeros_like(dual.primal) if dual.tangent is None else dual.tangent.detach()

"""This module is the bilevel problem of a meta stage: both losses as functions of parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict, TypeVar, cast

import torch
from torch import Tensor, nn

from core.meta.inner_step import LearningRate
from core.mixing.batch import Batch, Loss, copied, soft_cross_entropy
from core.mixing.kinds import INPUT, Mixing
from core.mixing.losses import check_logits, mixed_loss, unmixed_loss
from core.user_model.logits import LogitsOf, taken
from core.user_model.other_values import with_values
from core.user_model.precision import outside_autocast
from core.user_model.ranks import Ranks

T = TypeVar("T")

Validation = tuple[Tensor, list[Tensor]]
"""The validation loss (scalar) at θ′ and its gradient v there, a tensor for each parameter."""


@dataclass(frozen=True)
class MetaGradient:
    """This is what one meta stage yields.

    `hypergradient` [B], `meta_loss` and `virtual_loss` scalars; `validation` is what was computed
    anew at θ′, None where the caller gave it.
    """

    hypergradient: Tensor
    meta_loss: Tensor
    virtual_loss: Tensor
    validation: Validation | None = None


class ProblemSettings(TypedDict, total=False):
    """These are the settings of a `MetaProblem` that are the caller's, with its defaults."""

    loss: Loss
    mixing: Mixing
    optimizer: torch.optim.Optimizer | None
    scale: float
    validation_gradient: Validation | None
    validation_loss: Loss | None
    averaged: Callable[[list[Tensor]], list[Tensor]] | None
    others: Sequence[Tensor]


@dataclass(frozen=True)
class MetaProblem:
    """This is one bilevel problem, its model already a function of the trained parameters.

    Attributes:
        model: the plain module.
        logits_of: how its logits are taken from what it returns; None: it returns them.
        theta: copies of the parameters θ that the virtual step moves, leaves of its own graph.
        originals: all of the model's parameters by name, as the optimizer knows them.
        batch, val_batch: see `hypergradient`.
        lam: [B], a leaf that requires its gradient; partner: [B], int64.
        lr: rate of the plain virtual step; None where `optimizer` takes it.
        ranks: the processes whose batches together are the batch.
        loss: of the mixed and of the validation batch.
        mixing: where the pairs are blended, with all it draws fixed.
        optimizer: whose own step is the virtual one, or None.
        scale: of both losses in their backward passes.
        validation_gradient: validation loss and gradient of an earlier stage, used as they are; or
            None.
        validation_loss: of the validation batch; None: `loss`.
        averaged: what becomes of a v that was computed, before it is used; None: nothing.
        others: parameters that the real step moves and that are not the model's.
    """

    model: nn.Module
    logits_of: LogitsOf | None
    theta: dict[str, Tensor]
    originals: dict[str, Tensor]
    batch: Batch
    val_batch: Batch
    lam: Tensor
    partner: Tensor
    lr: LearningRate | None
    ranks: Ranks
    loss: Loss = soft_cross_entropy
    mixing: Mixing = INPUT
    optimizer: torch.optim.Optimizer | None = None
    scale: float = 1.0
    validation_gradient: Validation | None = None
    validation_loss: Loss | None = None
    averaged: Callable[[list[Tensor]], list[Tensor]] | None = None
    others: Sequence[Tensor] = ()

    @property
    def tensors(self) -> list[Tensor]:
        """Returns all parameters and λ: they lie on every device that the passes draw from."""
        return [*self.originals.values(), self.lam]

    def at(self, theta: Mapping[str, Tensor], body: Callable[[], T]) -> T:
        """Runs `body()` while the model's parameters are `theta`, those outside θ constants.

        Backward passes belong inside: activation checkpointing runs the model again in them.
        Buffers and the constants are copies: BatchNorm statistics do not move, nor does a parameter
        that the forward pass writes to, such as a momentum encoder's.
        """
        values = {
            name: p.detach().clone() for name, p in self.originals.items() if name not in theta
        }
        values |= {name: b.clone() for name, b in self.model.named_buffers()}
        values |= theta
        inside = {f"model.{name}": value for name, value in values.items()}
        return cast(T, with_values(_Inside(self.model), inside, body))

    def virtual_loss(self) -> Tensor:
        """Returns the mixed batch's loss (Algorithm 1, lines 4 and 5) where `at` stands."""
        x, y = copied(self.batch)
        logits = self.mixing.logits(self.logits, self.model, x, self.lam, self.partner)
        return mixed_loss(self.loss, logits, y, self.lam, self.partner)

    def meta_loss(self) -> Tensor:
        """Returns the validation batch's loss (Eq. 8) where `at` stands."""
        x, y = copied(self.val_batch)
        return unmixed_loss(self.validation_loss or self.loss, self.logits(x), y)

    def validation_at(self, prime: Sequence[Tensor]) -> Validation:
        """Returns the validation loss at θ′ and its gradient v, averaged over the ranks, and over
        earlier stages where the caller asks for it; detached.

        v is 0 for parameters that the loss does not use.
        """
        leaves = [p.detach().requires_grad_() for p in prime]

        def differentiate() -> Validation:
            loss = self.meta_loss()
            v = self.gradients(loss * self.scale, leaves, materialize_grads=True)
            return loss.detach(), [self.unscaled(g) for g in v if g is not None]

        loss, v = self.at(dict(zip(self.theta, leaves, strict=True)), differentiate)
        loss, *v = self.ranks.mean([loss, *v])
        return loss, v if self.averaged is None else self.averaged(v)

    def slope(
        self,
        outputs: Tensor | Sequence[Tensor],
        cotangents: Sequence[Tensor] | None = None,
        *,
        create_graph: bool = False,
    ) -> Tensor:
        """Returns the derivative of `outputs` along `cotangents` with respect to λ, [B].

        Raises:
            ValueError: λ is not in their graph.
        """
        (slope,) = self.gradients(outputs, [self.lam], cotangents, create_graph=create_graph)
        if slope is None:
            raise ValueError(
                "the virtual step does not depend on λ, so nothing can be learned: the model cuts "
                "its input off and the loss its labels (detach, no_grad, argmax); mix at a layer "
                "behind that, by mixing=core.HiddenMixing('name of a layer')"
            )
        return slope

    def gradients(
        self,
        outputs: Tensor | Sequence[Tensor],
        inputs: Sequence[Tensor],
        cotangents: Sequence[Tensor] | None = None,
        **options: bool,
    ) -> tuple[Tensor | None, ...]:
        """Returns the derivative along `cotangents` with respect to each input, as the real step's
        backward pass takes it: outside of the caller's autocast region.

        Args:
            outputs, inputs, cotangents: as in `torch.autograd.grad`.
            options: its others; an input may always be unused.
        """
        with outside_autocast(self.lam.device.type):
            return torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True, **options)

    def unscaled(self, gradient: Tensor) -> Tensor:
        """Returns a gradient of a scaled loss without the scale."""
        return gradient if self.scale == 1 else gradient / self.scale

    def rates(self) -> list[float]:
        """Returns the rate η of each parameter in `theta`, for the plain virtual step."""
        if self.lr is None or isinstance(self.lr, Mapping):
            rates = self.lr or {}
            return [float(rates[name]) for name in self.theta]
        return [float(self.lr)] * len(self.theta)

    def logits(self, x: Tensor) -> Tensor:
        """Returns the logits [n, C] of inputs [n, ...] where `at` stands."""
        output = self.model(x)
        if self.logits_of is not None:
            output = taken(output, self.logits_of)
        return check_logits(output, x.shape[0])


class _Inside(nn.Module):
    """`with_values` on this runs anything while the model's parameters are others."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, body: Callable[[], T]) -> T:
        return body()

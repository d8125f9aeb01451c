"""The bilevel problem of one meta stage: both losses as functions of the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from core.inner_step import LearningRate
from core.mixing import Batch, Loss, mix_inputs, mix_labels, soft_labels


@dataclass(frozen=True)
class MetaGradient:
    """What one meta stage yields. `hypergradient` [B], `meta_loss` and `virtual_loss` scalars."""

    hypergradient: Tensor
    meta_loss: Tensor
    virtual_loss: Tensor


@dataclass(frozen=True)
class MetaProblem:
    """One bilevel problem, its model already a function of the parameters that are trained.

    Attributes:
        model: the plain module.
        theta: the trainable parameters θ, as leaves of this problem's own graph.
        originals: all of the model's parameters by name, as the optimizer knows them.
        batch, val_batch: see `hypergradient`.
        lam: [B], a leaf that requires its gradient; partner: [B], int64.
        loss: of the mixed and of the validation batch.
        lr: rate of the plain virtual step; None where `optimizer` takes it.
        optimizer: whose own step is the virtual one, or None.
        scale: of both losses in their backward passes.
    """

    model: nn.Module
    theta: dict[str, Tensor]
    originals: dict[str, Tensor]
    batch: Batch
    val_batch: Batch
    lam: Tensor
    partner: Tensor
    loss: Loss
    lr: LearningRate | None
    optimizer: torch.optim.Optimizer | None
    scale: float

    def logits(self, theta: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The model at `theta`, [n, C]. Buffers are copies: BatchNorm statistics do not move."""
        buffers = {name: b.clone() for name, b in self.model.named_buffers()}
        out = functional_call(self.model, ({**theta, **buffers},), (x,))
        if not isinstance(out, Tensor) or out.dim() != 2 or out.shape[0] != x.shape[0]:
            shape = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"the model must return logits [{x.shape[0]}, C], got {shape}")
        return out

    def virtual_loss(self, theta: Mapping[str, Tensor]) -> Tensor:
        """Loss of the mixed batch (Algorithm 1, lines 4 and 5). Scalar."""
        x, y = self.batch
        logits = self.logits(theta, mix_inputs(x, self.lam, self.partner))
        return self.loss(logits, mix_labels(y, self.lam, self.partner, logits.shape[1]))

    def meta_loss(self, theta: Mapping[str, Tensor]) -> Tensor:
        """Loss of the validation batch (Eq. 8). Scalar."""
        x, y = self.val_batch
        logits = self.logits(theta, x)
        soft_labels(y, logits.shape[1], dtype=logits.dtype)  # refuses labels out of range
        return self.loss(logits, y)

    def rates(self) -> list[float]:
        """The rate η of each parameter in `theta`, for the plain virtual step."""
        if self.lr is None or isinstance(self.lr, Mapping):
            rates = self.lr or {}
            return [float(rates[name]) for name in self.theta]
        return [float(self.lr)] * len(self.theta)

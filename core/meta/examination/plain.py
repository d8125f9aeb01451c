"""This module is plain training as a function of λ, with nothing of the engines in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.meta.engines.replay import Replay
from core.mixing.batch import Batch, Loss
from core.mixing.kinds import Mixing
from core.mixing.losses import check_logits, mixed_loss, unmixed_loss
from core.user_model.logits import LogitsOf, taken
from core.user_model.other_values import with_values
from core.user_model.precision import outside_autocast
from core.user_model.untouched import untouched


@dataclass(frozen=True)
class PlainTraining:
    """This is one step of plain training on the mixed batch, and the validation loss after it.

    Parameters and buffers are copies. Attributes as in `MetaProblem`; `rates` by parameter name.
    """

    module: nn.Module
    logits_of: LogitsOf | None
    batch: Batch
    val_batch: Batch
    lam: Tensor
    partner: Tensor
    loss: Loss
    mixing: Mixing
    rates: Mapping[str, float]
    others: Sequence[Tensor]
    replay: Replay

    def values(
        self, dtype: torch.dtype | None = None, but: Collection[str] = ()
    ) -> dict[str, Tensor]:
        """Returns copies of parameters, leaves of a graph where they are trained, and buffers.

        Args:
            dtype: of those that are floating; None leaves it.
            but: names that are left out.
        """
        named = (*self.module.named_parameters(), *self.module.named_buffers())
        return {
            name: _cast(t.detach().clone(), dtype).requires_grad_(t.requires_grad)
            for name, t in named
            if name not in but
        }

    def training_loss(self, values: dict[str, Tensor], lam: Tensor) -> Tensor:
        """Returns the mixed batch's loss."""
        x, y = (_cast(t.clone(), lam.dtype) for t in self.batch)
        logits = self.mixing.logits(
            lambda inputs: self._logits(values, inputs), self.module, x, lam, self.partner
        )
        return mixed_loss(self.loss, logits, y, lam, self.partner)

    def trained(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns those of the values that are trained."""
        return {name: value for name, value in values.items() if value.requires_grad}

    def step(self, values: dict[str, Tensor]) -> None:
        """Runs the forward and backward pass of a plain step, whose result is not kept."""
        with self.replay(), untouched(self.module):
            loss = self.training_loss(values, self.lam)
            with outside_autocast(loss.device.type):
                torch.autograd.grad(loss, [*self.trained(values).values()], allow_unused=True)

    def meta_loss(self, lam: Tensor) -> Tensor:
        """Returns the validation loss, a scalar, after plain descent on the batch mixed by λ.

        All passes are in λ's precision.
        """
        values = self.values(lam.dtype)
        x, y = (_cast(t.clone(), lam.dtype) for t in self.val_batch)
        full = torch.autocast(lam.device.type, enabled=False)
        with self.replay(), untouched(self.module), full:
            loss, trained = self.training_loss(values, lam), self.trained(values)
            gradient = torch.autograd.grad(loss, [*trained.values()], allow_unused=True)
            for (name, p), g in zip(trained.items(), gradient, strict=True):
                if g is not None:
                    trained[name] = p - self.rates[name] * g
            # Buffers, and parameters that forward writes to, are as they were.
            values = {**self.values(lam.dtype, but=trained), **trained}
            return unmixed_loss(self.loss, self._logits(values, x), y)

    def _logits(self, values: dict[str, Tensor], x: Tensor) -> Tensor:
        output = with_values(self.module, values, x)
        if self.logits_of is not None:
            output = taken(output, self.logits_of)
        return check_logits(output, x.shape[0])


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor

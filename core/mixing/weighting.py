"""This module gives each sample of a batch a weight in the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from core.mixing.batch import Call, Loss, mix_labels, soft_cross_entropy
from core.mixing.kinds import InputMixing
from core.mixing.losses import at_soft_labels, mixed_form, mixed_loss, unmixed_loss


def sample_losses(loss: Loss, logits: Tensor, y: Tensor, lam: Tensor, partner: Tensor) -> Tensor:
    """Returns each sample's own loss, [B], whose mean is `core.mixing.losses.mixed_loss`.

    A loss of soft labels is a mean over the batch, so that of a batch of one is that of its sample;
    a loss with a form of its own for mixed batches has a method `mixed_each` of the same arguments
    as `mixed`, as `IndexLoss` has. The result is differentiable in logits (twice) and lam.

    Args:
        loss, logits, y, lam, partner: as in `core.mixing.losses.mixed_loss`.

    Raises:
        ValueError: as `core.mixing.losses.mixed_loss`; the loss has a form of its own for mixed
            batches that does not tell the samples' losses apart.
    """
    form = mixed_form(loss, y)
    if form is not None:
        each = getattr(form, "mixed_each", None)
        if each is None:
            raise ValueError(
                f"{type(loss).__name__} tells no loss of each sample, which weights need; give a "
                "loss of soft labels, or a core.IndexLoss"
            )
        losses: Tensor = each(logits, y, lam, partner)
        return losses
    target = mix_labels(y, lam, partner, logits.shape[1])
    if loss is soft_cross_entropy and logits.shape[1] > 1:
        return -(target * F.log_softmax(logits, dim=1)).sum(dim=1)

    def alone(row: Tensor, label: Tensor) -> Tensor:
        return at_soft_labels(loss, row.unsqueeze(0), label.unsqueeze(0))

    each_alone: Tensor = vmap(alone)(logits, target)
    return each_alone


def weighted_loss(
    loss: Loss, logits: Tensor, y: Tensor, lam: Tensor, partner: Tensor, weights: Tensor
) -> Tensor:
    """Returns `(1/B) Σ_i weights_i ℓ_i` of a mixed batch, a scalar; all weights 1 are plain
    training.

    Args:
        loss, logits, y, lam, partner: as in `core.mixing.losses.mixed_loss`.
        weights: [B], floating; the result is differentiable in them.

    Raises:
        ValueError: as `sample_losses`.
    """
    return weighted_mean(weights, sample_losses(loss, logits, y, lam, partner))


def weighted_mean(weights: Tensor, losses: Tensor) -> Tensor:
    """Returns `(1/B) Σ_i weights_i ℓ_i`, a scalar, of [B] each."""
    return (weights.to(losses.dtype) * losses).mean()


@torch.no_grad()
def refuse_joint_loss(
    losses: Tensor, loss: Loss, logits: Tensor, y: Tensor, lam: Tensor, partner: Tensor
) -> None:
    """Raises ValueError where the loss of a batch is not the mean of its samples' own losses.

    A sum over the batch, or a term of the batch's statistics, would be another loss with weights,
    even where all of them are 1.

    Args:
        losses: what `sample_losses` gives of the rest.
        loss, logits, y, lam, partner: as there.
    """
    if loss is soft_cross_entropy or mixed_form(loss, y) is not None:
        return
    whole = mixed_loss(loss, logits, y, lam, partner)
    mean = losses.mean()
    if not torch.isclose(whole, mean.to(whole.dtype), rtol=0.01, atol=1e-4, equal_nan=True):
        raise ValueError(
            f"the loss of the batch is {float(whole):.4g} and the mean of its samples' own losses "
            f"{float(mean):.4g}: weights need a loss that is such a mean, as with "
            'reduction="mean", and without terms of the whole batch'
        )


@dataclass(frozen=True)
class WeightedLoss:
    """This is the loss by which the engines of the meta stage differentiate weights of samples.

    It is a `core.mixing.losses.MixedLoss`, and where those mix by λ it weights by it: with
    `UNMIXED` as the mixing, the hypergradient with respect to λ is that with respect to the
    weights, at any value of theirs.

    Attributes:
        loss: of the samples.
    """

    loss: Loss

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of the validation batch, which has no weights."""
        return unmixed_loss(self.loss, logits, target)

    def mixed(self, logits: Tensor, y: Tensor, lam: Tensor, partner: Tensor) -> Tensor:
        """Returns `weighted_loss` of the unmixed batch at the weights `lam` [B]."""
        ones = torch.ones_like(lam, requires_grad=False)
        return weighted_loss(self.loss, logits, y, ones, partner, lam)


@dataclass(frozen=True)
class Unmixed(InputMixing):
    """This is a `core.mixing.kinds.Mixing` that mixes nothing, whatever λ is. It draws nothing."""

    def logits(
        self, call: Call, model: nn.Module, x: Tensor, lam: Tensor, partner: Tensor
    ) -> Tensor:
        """Runs the network on the inputs as they are; see `core.mixing.kinds.Mixing`."""
        return call(x)


UNMIXED = Unmixed()
"""The only one."""

"""This module holds what a policy decides for one batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from core.mixing.batch import (
    Batch,
    Loss,
    check_vector,
    mix_inputs,
    mix_labels,
    soft_cross_entropy,
)
from core.mixing.kinds import INPUT, Mixing
from core.mixing.losses import check_logits, mixed_loss
from core.mixing.weighting import refuse_joint_loss, sample_losses, weighted_mean
from core.user_model.wrapped_models import eager_if_hooked, unwrap


@dataclass(frozen=True)
class Interpolation:
    """An interpolation says how one batch is to be mixed, and how that was found.

    Attributes:
        lam: [B], floating, in [0, 1]; sample i becomes `lam_i·x_i + (1 − lam_i)·x_partner_i`.
        partner: [B], int64, indices into the batch.
        lam_init: [B]; λ0 as drawn. Equal to `lam` where nothing is learned.
        change: [B]; `lam` minus what it would be had the hypergradient been 0; None if not learned.
        hypergradient: [B]; d(meta loss)/d(lam_i) at the last meta step (Eq. 9), or None.
        meta_loss: scalar; validation loss after the virtual step (Eq. 8); None if not learned.
        extra_samples: samples of the virtual and validation batches that `lam` was found by, each
            counted once, whatever the engine sends through the network; the real step not counted.
        mixing: where the pairs are blended, with what it draws drawn.
        weights: [B], floating, at least 0; what each sample counts in the loss of the real step,
            `(1/B) Σ_i weights_i ℓ_i`, so that weights of 1 are no weights. None: no weights. Of a
            policy that learns weights, `hypergradient` is d(meta loss)/d(weights_i).

    Raises:
        ValueError: shapes or dtypes are not these. (That λ lies in [0, 1] is left to the policy, as
            to look would make every step wait for the device.)

    Examples:
        >>> import torch, core
        >>> lam, partner = torch.tensor([0.75, 0.5]), torch.tensor([1, 0])
        >>> core.Interpolation(lam=lam, partner=partner, lam_init=lam).mix_labels(partner, 2)
        tensor([[0.2500, 0.7500],
                [0.5000, 0.5000]])
    """

    lam: Tensor
    partner: Tensor
    lam_init: Tensor
    change: Tensor | None = None
    hypergradient: Tensor | None = None
    meta_loss: Tensor | None = None
    extra_samples: int = 0
    mixing: Mixing = INPUT
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        check_vector("partner", self.partner, floating=False)
        check_vector("lam", self.lam, len(self.partner), floating=True)
        if self.weights is not None:
            check_vector("weights", self.weights, len(self.partner), floating=True)

    def logits(self, model: nn.Module, x: Tensor) -> Tensor:
        """Returns the network's output [B, C] on the mixed batch, whatever the mixing.

        Args:
            model: as in the training loop, `DistributedDataParallel` and `torch.compile` included.
            x: [B, ...], floating.

        Raises:
            ValueError: B is not that of `lam` and `partner`.
        """
        if len(x) != len(self.partner):
            raise ValueError(
                f"the interpolation is of {len(self.partner)} samples and the training batch has "
                f"{len(x)}: give the batch that the policy was given"
            )
        with eager_if_hooked(model, self.mixing.hooks):
            return check_logits(
                self.mixing.logits(model, unwrap(model), x, self.lam, self.partner), x.shape[0]
            )

    def loss(self, logits: Tensor, y: Tensor, loss: Loss = soft_cross_entropy) -> Tensor:
        """Returns the loss of the mixed batch, a scalar; see `core.mixing.losses.mixed_loss`, and
        with weights `core.mixing.weighting.weighted_loss`.

        Raises:
            ValueError: as there; there are weights, and the loss is no mean over the samples.
        """
        if self.weights is not None:
            losses = sample_losses(loss, logits, y, self.lam, self.partner)
            refuse_joint_loss(losses, loss, logits, y, self.lam, self.partner)
            return weighted_mean(self.weights, losses)
        return mixed_loss(loss, logits, y, self.lam, self.partner)

    def objective(self, model: nn.Module, batch: Batch, loss: Loss = soft_cross_entropy) -> Tensor:
        """Returns what the real step descends: the mixed batch's loss (Algorithm 1, line 8)."""
        return self.loss(self.logits(model, batch[0]), batch[1], loss)

    def mix_inputs(self, x: Tensor) -> Tensor:
        """Returns the mixed inputs (Eq. 4), [B, ...], of a mixing of whole inputs."""
        return mix_inputs(x, self.lam, self.partner)

    def mix_labels(self, y: Tensor, num_classes: int) -> Tensor:
        """Returns the mixed labels (Eq. 4), [B, C]."""
        return mix_labels(y, self.lam, self.partner, num_classes)

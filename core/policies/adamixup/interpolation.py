"""What AdaMixUp decides for one batch, and the loss through which all of its networks learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.mixing.batch import Batch, Loss, mix_inputs, soft_cross_entropy
from core.mixing.interpolation import Interpolation
from core.mixing.losses import mixed_form, mixed_loss, unmixed_loss
from core.policies.adamixup.networks import IntrusionDiscriminator
from core.user_model.held_statistics import statistics_held
from core.user_model.precision import wide_dtype
from core.user_model.wrapped_models import unwrap

if TYPE_CHECKING:
    from core.models.classifier import ImageClassifier

REAL, MIXED = 1, 0
"""Classes of the intrusion discriminator."""


@dataclass(frozen=True, kw_only=True)
class AdaMixUpInterpolation(Interpolation):
    """What AdaMixUp decides for one batch: `lam`, `partner` [h] and `lam_init` of the first half.

    Attributes:
        discriminator: learns in `objective`; None without.
        record: where `objective` notes what `AdaMixUp.metrics` tells.
    """

    discriminator: IntrusionDiscriminator | None
    record: Record

    def objective(self, model: nn.Module, batch: Batch, loss: Loss = soft_cross_entropy) -> Tensor:
        """Returns the loss that all networks learn by, without weight decay, which is the
        optimizer's.

        The mean of the classifier's on the mixed and on x1, [h] each, plus the discriminator's
        cross-entropy on [unseen, x1] as real and mixed as not, a mean over B + h. Scalar;
        differentiable in λ where it mixes images, not where it mixes labels.
        """
        x, y = batch
        h = len(self.lam)
        first, unseen = x[:h], x[h:]
        mixed = mix_inputs(first, self.lam, self.partner)
        logits = model(torch.cat([mixed, first]))
        of_mixed = mixed_loss(loss, logits[:h], y[:h], self.lam.detach(), self.partner)
        value = (of_mixed + _plain_loss(loss, logits[h:], y[:h])) / 2
        if self.discriminator is None:
            return value
        with statistics_held(model):
            plain = cast("ImageClassifier", unwrap(model))
            features = plain.features(torch.cat([unseen, first, mixed]))
        verdicts = self.discriminator(features)
        n = x.shape[0]
        truth = torch.full((n + h,), REAL, device=verdicts.device)
        truth[n:] = MIXED
        intrusion = F.cross_entropy(verdicts, truth)
        right = (verdicts.argmax(dim=1) == truth).to(wide_dtype(truth.device))
        self.record.add("discriminator_loss", intrusion)
        self.record.add("discriminator_accuracy", 50 * (right[:n].mean() + right[n:].mean()))
        return value + intrusion


def _plain_loss(loss: Loss, logits: Tensor, y: Tensor) -> Tensor:
    """Returns the training loss of images [h] that are not mixed, a scalar."""
    form = mixed_form(loss, y)
    if form is None:
        return unmixed_loss(loss, logits, y)
    n = len(logits)
    alone = torch.arange(n, device=logits.device)
    whole = torch.ones(n, device=logits.device)
    return form.mixed(logits, y, whole.to(torch.promote_types(logits.dtype, whole.dtype)), alone)


class Record:
    """Keeps means of named numbers, on their device, until they are taken."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, value: Tensor) -> None:
        """Takes in one more value of `name`, a scalar."""
        value = value.detach().to(wide_dtype(value.device))
        self._sums[name] = self._sums.get(name, 0) + value
        self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """Returns the means and begins anew."""
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means


def first_half(n: int) -> int:
    """Returns how many of n samples AdaMixUp mixes: half, rounded up; of two both, a pair being
    two.

    Raises:
        ValueError: n is below 2.
    """
    if n < 2:
        raise ValueError(f"AdaMixUp mixes two samples or more, got a batch of {n}")
    return max(2, (n + 1) // 2)

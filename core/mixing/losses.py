"""Losses with a form of their own for mixed batches, and the one road from those to a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from core.mixing.batch import Loss, mix_labels


class MixedLoss(Protocol):
    """A loss whose value on a mixed batch is not that of a mixed label.

    It may treat the rows of a mixed batch differently, as semi-supervised losses do.
    """

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """The mean loss of unmixed samples, of the validation batch. Scalar."""

    def mixed(self, logits: Tensor, y: Tensor, lam: Tensor, partner: Tensor) -> Tensor:
        """The loss of a mixed batch. Scalar, differentiable in logits (twice) and lam.

        Args:
            logits: [B, C], floating, of the mixed batch.
            y: [B] or [B, C], labels of the batch before it was mixed.
            lam: [B], floating.
            partner: [B], int64.
        """


@dataclass(frozen=True)
class IndexLoss:
    """A user's own loss of integer labels, as the loss of a mixed batch.

    A loss that is not linear in the target, such as the focal loss, has no meaning for mixed
    labels; the mix of its values at both labels has: `λ_i ℓ(f_i, y_i) + (1 − λ_i) ℓ(f_i, y_j)`, j
    the partner of i. For cross-entropy it is the same number.

    Attributes:
        per_sample: (logits [n, C], y [n] int64) → [n], a loss for each sample, twice
            differentiable in the logits.

    Example:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> loss = IndexLoss(lambda logits, y: F.multi_margin_loss(logits, y, reduction="none"))
        >>> loss(torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor(0.7500)
    """

    per_sample: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """The mean loss of unmixed samples. Scalar.

        Args:
            logits: [n, C], floating.
            target: [n], integer.

        Raises:
            ValueError: target is not integer [n], or `per_sample` does not return [n].
        """
        return self._each(logits, target).mean()

    def mixed(self, logits: Tensor, y: Tensor, lam: Tensor, partner: Tensor) -> Tensor:
        """`mean_i(lam_i ℓ(logits_i, y_i) + (1 − lam_i) ℓ(logits_i, y_partner_i))`. Scalar.

        Args:
            logits: [B, C], floating, of the mixed batch.
            y: [B], integer, of the batch before it was mixed.
            lam: [B], floating; the result is differentiable in it.
            partner: [B], int64.

        Raises:
            ValueError: as in a plain call.
        """
        first, second = self._each(logits, y), self._each(logits, y[partner])
        return (lam * first + (1 - lam) * second).mean()

    def _each(self, logits: Tensor, y: Tensor) -> Tensor:
        n = logits.shape[0]
        if y.is_floating_point() or list(y.shape) != [n]:
            raise ValueError(
                f"IndexLoss takes integer labels [{n}], got {y.dtype} {list(y.shape)}; for soft "
                "labels give a loss that takes them, such as soft_cross_entropy"
            )
        values = self.per_sample(logits, y.long())
        if list(values.shape) != [n]:
            raise ValueError(
                f"per_sample must return one loss for each sample, [{n}], got "
                f'{list(values.shape)}; torch\'s own losses do with reduction="none"'
            )
        return values


def mixed_loss(loss: Loss, logits: Tensor, y: Tensor, lam: Tensor, partner: Tensor) -> Tensor:
    """The loss of a mixed batch: a `MixedLoss` by its own form, others at the mixed label (Eq. 4).

    Args:
        loss: a `MixedLoss`, or a function of (logits [B, C], soft labels [B, C]).
        logits: [B, C], floating, of the mixed batch.
        y: [B], integer class indices, or [B, C], floating soft labels (not for `IndexLoss`).
        lam: [B], floating; the result is differentiable in it.
        partner: [B], int64.

    Returns:
        Scalar.

    Raises:
        ValueError: as `IndexLoss` or `soft_labels`.
    """
    if hasattr(loss, "mixed"):
        return loss.mixed(logits, y, lam, partner)
    return loss(logits, mix_labels(y, lam, partner, logits.shape[1]))

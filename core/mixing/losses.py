"""This module holds losses with a form of their own for mixed batches, and how those are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.mixing.batch import Loss, mix_labels, shown, soft_cross_entropy, soft_labels
from core.user_model.logits import described


class MixedLoss(Protocol):
    """This is a loss whose value on a mixed batch is not that of a mixed label.

    It may treat the rows of a mixed batch differently, as semi-supervised losses do.

    Examples:
        >>> import torch, core
        >>> class Absolute:
        ...     def __call__(self, outputs, target):
        ...         return (outputs - target).abs().mean()
        ...     def mixed(self, outputs, y, lam, partner):
        ...         return self(outputs, torch.lerp(y[partner], y, lam.unsqueeze(1)))
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> batch = torch.randn(8, 4), torch.randn(8, 2)
        >>> core.metamixup_step(model, optimizer, batch, batch, loss=Absolute()).lam.shape
        torch.Size([8])
    """

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the mean loss of unmixed samples, of the validation batch, a scalar."""

    def mixed(self, logits: Tensor, y: Tensor, lam: Tensor, partner: Tensor) -> Tensor:
        """Returns a mixed batch's loss, a scalar, differentiable in logits (twice) and lam.

        Args:
            logits: [B, C], floating, of the mixed batch.
            y: [B] or [B, C], labels of the batch before it was mixed.
            lam: [B], floating.
            partner: [B], int64.
        """


@dataclass(frozen=True)
class IndexLoss:
    """This makes a user's own loss of integer labels the loss of a mixed batch.

    A loss that is not linear in the target, such as the focal loss, has no meaning for mixed
    labels; the mix of its values at both labels has: `λ_i ℓ(f_i, y_i) + (1 − λ_i) ℓ(f_i, y_j)`, j
    the partner of i. For cross-entropy it is the same number.

    With class weights or ignored labels the sum over the batch is divided by the sum of the weights
    `λ_i w(y_i) + (1 − λ_i) w(y_j)`, as torch's own losses divide by that of `w(y_i)`: at λ = 1 the
    value is that of plain training.

    Attributes:
        per_sample: (logits [n, C], y [n] int64) → [n], a loss for each sample, weighted already,
            twice differentiable in the logits.
        weight: [C], floating, the class weights in `per_sample` to divide by; by default those of
            `per_sample.weight`, which torch's own losses have, or ones. (`nn.MultiMarginLoss` has
            weights too, and torch divides its sum by n.)
        ignore_index: a label that counts for nothing; by default `per_sample.ignore_index`.

    Examples:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> loss = IndexLoss(lambda logits, y: F.cross_entropy(logits, y, reduction="none"))
        >>> loss(torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor(1.3863)
    """

    per_sample: Callable[[Tensor, Tensor], Tensor]
    weight: Tensor | None = field(default=None, compare=False)
    ignore_index: int | None = None

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the mean loss of unmixed samples, a scalar.

        Args:
            logits: [n, C], floating.
            target: [n], integer.

        Raises:
            ValueError: target is not integer [n], or has a label that `per_sample` has no class
                for; or `per_sample` does not return [n].
        """
        values, weights = self._each(logits, target)
        return values.mean() if weights is None else values.sum() / weights.sum()

    def mixed(self, logits: Tensor, y: Tensor, lam: Tensor, partner: Tensor) -> Tensor:
        """Returns `mean_i(lam_i ℓ(logits_i, y_i) + (1 − lam_i) ℓ(logits_i, y_partner_i))`.

        Args:
            logits: [B, C], floating, of the mixed batch.
            y: [B], integer, of the batch before it was mixed.
            lam: [B], floating; the result is differentiable in it.
            partner: [B], int64.

        Raises:
            ValueError: as in a plain call.
        """
        values, counts = self._mixed(logits, y, lam, partner)
        return values.mean() if counts is None else values.sum() / counts.sum()

    def mixed_each(self, logits: Tensor, y: Tensor, lam: Tensor, partner: Tensor) -> Tensor:
        """Returns each sample's share of it, [B], whose mean is `mixed`; arguments as there."""
        values, counts = self._mixed(logits, y, lam, partner)
        return values if counts is None else values * (len(values) / counts.sum())

    def _mixed(
        self, logits: Tensor, y: Tensor, lam: Tensor, partner: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Returns each mixed sample's loss [B], and what it counts in the mean [B]; None where
        alike."""
        values, weights = self._each(logits, y)
        others, other_weights = self._each(logits, y[partner])
        mixed = lam * values + (1 - lam) * others
        if weights is None or other_weights is None:
            return mixed, None
        return mixed, lam * weights + (1 - lam) * other_weights

    def _each(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns each sample's loss [n], and what it counts in the mean [n]; None where alike."""
        n = logits.shape[0]
        if y.is_floating_point() or list(y.shape) != [n]:
            raise ValueError(
                f"IndexLoss takes integer labels [{n}], got {y.dtype} {list(y.shape)}; for soft "
                "labels give a loss that takes them, such as soft_cross_entropy"
            )
        y = y.long()
        try:
            values = self.per_sample(logits, y)
        except IndexError as error:  # torch's own losses, of a label
            raise ValueError(
                f"the loss refuses a label (they run from {int(y.min())} to {int(y.max())}, and "
                f"there are {logits.shape[1]} logits): {error}"
            ) from error
        if list(values.shape) != [n]:
            raise ValueError(
                f"per_sample must return one loss for each sample, [{n}], got "
                f'{list(values.shape)}; torch\'s own losses do with reduction="none"'
            )
        class_weights, ignored = self.weight, self.ignore_index
        if class_weights is None and not isinstance(self.per_sample, nn.MultiMarginLoss):
            class_weights = getattr(self.per_sample, "weight", None)
        if ignored is None:
            ignored = getattr(self.per_sample, "ignore_index", None)
        if class_weights is None and ignored is None:
            return values, None
        counted = torch.ones_like(y, dtype=torch.bool) if ignored is None else y != ignored
        # A label that is ignored may lie outside of the classes.
        weights = counted.to(values.dtype)
        if class_weights is not None:
            if list(getattr(class_weights, "shape", ())) != [logits.shape[1]]:
                raise ValueError(
                    f"weight of a loss must be a tensor [{logits.shape[1]}], one number for each "
                    f"class, got {shown(class_weights)}"
                )
            weights = weights * class_weights.to(weights)[torch.where(counted, y, 0)]
        return torch.where(counted, values, 0), weights


def mixed_loss(loss: Loss, logits: Tensor, y: Tensor, lam: Tensor, partner: Tensor) -> Tensor:
    """Returns a mixed batch's loss: of a `MixedLoss` its own, of others at the mixed label (Eq. 4).

    Args:
        loss: a `MixedLoss`, or a function of (logits [B, C], soft labels [B, C]).
            `nn.CrossEntropyLoss` with class weights or ignored labels, and `functools.partial` of
            `F.cross_entropy` with them, is taken as an `IndexLoss` where labels are integers, since
            torch divides by n and not by the sum of the weights where they are soft. (A lambda
            around it is not seen through.)
        logits: [B, C], floating, of the mixed batch.
        y: [B], integer class indices, or [B, C], floating soft labels (not for `IndexLoss`).
        lam: [B], floating; the result is differentiable in it.
        partner: [B], int64.

    Returns:
        Scalar.

    Raises:
        ValueError: as `IndexLoss` or `soft_labels`; the loss fails on soft labels or does not
            return one number; cross-entropy of a single logit, which is constant.
    """
    form = mixed_form(loss, y)
    if form is not None:
        return _number(form.mixed(logits, y, lam, partner))
    return at_soft_labels(loss, logits, mix_labels(y, lam, partner, logits.shape[1]))


def unmixed_loss(loss: Loss, logits: Tensor, y: Tensor) -> Tensor:
    """Returns the loss of samples that are not mixed, as the validation batch's (Eq. 8).

    A loss that is written for soft labels gets one-hot rows for integer ones, as it gets them for a
    mixed batch: given indices [n] it could broadcast them against the logits.

    Args:
        loss: as in `mixed_loss`.
        logits: [n, C], floating.
        y: [n], integer class indices, or [n, C], floating soft labels.

    Raises:
        ValueError: as in `mixed_loss`.
    """
    form = mixed_form(loss, y)
    if form is not None:
        return _number(form(logits, y))
    target = validation_target(loss, y, logits.shape[1], logits.dtype)
    return at_soft_labels(loss, logits, target)


def validation_target(loss: Loss, y: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Returns labels as a loss without a form for mixed batches takes them unmixed.

    Args:
        loss: a function of (logits [n, C], soft labels [n, C]).
        y: [n], integer class indices, or [n, C], floating soft labels.
        num_classes: C.
        dtype: of the one-hot rows.

    Returns:
        y for cross-entropy, which takes both; else [n, C].

    Raises:
        ValueError: as `soft_labels`.
    """
    one_hot = soft_labels(y, num_classes, dtype=dtype)
    if not _is_cross_entropy(loss):
        return one_hot
    return y if y.is_floating_point() else y.long()


def check_logits(logits: Any, n: int) -> Tensor:
    """Returns the model's output, if it is [n, C].

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[0] != n:
        raise ValueError(
            f"the model must return logits [{n}, C], got {described(logits)}; say by logits_of=, a "
            "key, a position or a function, how they are taken from what it returns"
        )
    return logits


def mixed_form(loss: Any, y: Tensor) -> MixedLoss | None:
    """Returns the loss as one with its own form for mixed batches, or None if it has none.

    Args:
        loss: as in `mixed_loss`.
        y: [n], integer, or [n, C], floating, the labels that it is about to be given.
    """
    if hasattr(loss, "mixed") and not isinstance(loss, type):
        return loss
    torchs = _torchs_cross_entropy(loss)
    if torchs is None or torchs.reduction != "mean" or y.is_floating_point():
        return None
    weight, ignored, smoothing = torchs.weight, torchs.ignore_index, torchs.label_smoothing
    # Where labels are soft, torch takes no `ignore_index` from 0 up, whether it is there or not.
    if weight is None and ignored < 0 and not bool((y == ignored).any()):
        return None

    def per_sample(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(
            logits,
            labels,
            weight=weight,
            ignore_index=ignored,
            reduction="none",
            label_smoothing=smoothing,
        )

    return IndexLoss(per_sample, weight, ignored)


def _torchs_cross_entropy(loss: Any) -> nn.CrossEntropyLoss | None:
    """Returns the loss as torch's own module of it; None where it is another loss."""
    if loss is F.cross_entropy:
        return nn.CrossEntropyLoss()
    if isinstance(loss, partial) and loss.func is F.cross_entropy and not loss.args:
        return nn.CrossEntropyLoss(**loss.keywords)
    own = isinstance(loss, nn.CrossEntropyLoss) and "forward" not in vars(loss)
    return loss if own and type(loss).forward is nn.CrossEntropyLoss.forward else None


def _is_cross_entropy(loss: Any) -> bool:
    """Says whether integer labels are as good as one-hot rows to it."""
    return loss is soft_cross_entropy or _torchs_cross_entropy(loss) is not None


def at_soft_labels(loss: Loss, logits: Tensor, target: Tensor) -> Tensor:
    """Returns the loss at labels as it takes them, a scalar; refusals are those of `mixed_loss`."""
    if logits.shape[1] == 1 and _is_cross_entropy(loss):
        raise ValueError(
            "softmax over one class is constant, so its cross-entropy teaches nothing; for two "
            "classes give the model two outputs, or pass loss=torch.nn.BCEWithLogitsLoss() with "
            f"floating labels [{logits.shape[0]}, 1]"
        )
    if isinstance(loss, type) or not callable(loss):
        got = f"the class {loss.__name__}" if isinstance(loss, type) else repr(loss)
        raise ValueError(f"loss must be a function or an instance, got {got}")
    try:
        value = loss(logits, target)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # it is the user's code that runs
        cure = 'a loss of integer labels goes into core.IndexLoss with reduction="none"'
        if "not differentiable with respect to argument" in str(error):
            cure = "λ reaches it through the mixed labels, so write it by operations on them"
        raise ValueError(
            f"the loss failed on logits {list(logits.shape)} and labels {target.dtype} "
            f"{list(target.shape)}: {type(error).__name__}: {error}; {cure}"
        ) from error
    return _number(value)


def _number(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
        got = (
            f"{value.dtype} {list(value.shape)}"
            if isinstance(value, Tensor)
            else type(value).__name__
        )
        raise ValueError(f"loss must return one number, the real mean over the batch; got {got}")
    return value

"""Losses that practitioners take against long tails and wrong labels, for batches that are mixed.

Each is a `MixedLoss`. Its `mixed` is what training descends, at λ = 1 the loss of its source. Its
plain call, which a meta stage makes for the validation batch, is cross-entropy: that batch is clean
and balanced, and stands for how the classifier is judged. Shapes: B batch, C classes.

Examples:
    >>> import torch, core
    >>> from core.mixing.remedies import LogitAdjusted, log_prior
    >>> model = torch.nn.Linear(2, 3)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> x, y = torch.randn(6, 2), torch.tensor([0, 0, 0, 1, 1, 2])
    >>> loss = LogitAdjusted(log_prior(y, 3))
    >>> core.metamixup_step(model, optimizer, (x, y), (x, y), loss=loss).lam.shape
    torch.Size([6])
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Literal, get_args

from core.lazy import functional as F
from core.lazy import torch
from core.mixing.batch import check_labels, mix_labels, soft_cross_entropy

if TYPE_CHECKING:
    from torch import Tensor

ClassWeights = Literal["none", "inverse", "effective"]
CLASS_WEIGHTS: tuple[ClassWeights, ...] = get_args(ClassWeights)

EFFECTIVE_BETA = 0.9999
"""β of the effective number of samples, the one that its source takes for long-tailed CIFAR."""

_LEAST = 1e-4
"""Early-learning regularization keeps probabilities so far from 0 and 1, as its source does."""


@dataclass(frozen=True, kw_only=True)
class LabelLoss:
    """Cross-entropy, and the losses that are linear in the label as it is.

    The loss of a mixed batch is `Σ_i Σ_c y_ic w_c cost_c(f_i) / Σ_i Σ_c y_ic w_c`, y its mixed
    labels: the label-weighted sum of the costs of the classes. Without weights it is the mean over
    the batch; with them it is divided by their sum, as torch's own cross-entropy divides.

    Attributes:
        weight: [C], floating; w, see `class_weights`. None: ones.
        adjustment: [C], floating; it is subtracted from the logits of the validation batch, where
            the classifier is judged by logits so adjusted. None: nothing.
    """

    weight: Tensor | None = None
    adjustment: Tensor | None = None

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the cross-entropy of samples of the validation batch, a scalar.

        Args:
            logits: [n, C], floating.
            target: [n], integer, or [n, C], floating.

        Raises:
            ValueError: as `core.mixing.batch.check_labels`.
        """
        check_labels(target, logits.shape[1])
        shown = logits if self.adjustment is None else logits - self.adjustment
        return soft_cross_entropy(shown, target)

    def mixed(self, logits: Tensor, y: Tensor, lam: Tensor, partner: Tensor) -> Tensor:
        """Returns the training loss of a mixed batch, a scalar; see `MixedLoss`."""
        return self.mixed_each(logits, y, lam, partner).mean()

    def mixed_each(self, logits: Tensor, y: Tensor, lam: Tensor, partner: Tensor) -> Tensor:
        """Returns each sample's share of it, [B], whose mean is `mixed`; arguments as there."""
        target = mix_labels(y, lam, partner, logits.shape[1])
        costs = self.costs(_wide(logits))
        if self.weight is None:
            return (target * self.spread(costs)).sum(dim=1)
        weight = self.weight.to(costs)
        each = (target * self.spread(costs * weight)).sum(dim=1)
        return each * (len(target) / (target * weight).sum())

    def costs(self, logits: Tensor) -> Tensor:
        """Returns the cost of each class, [B, C], of logits [B, C] in float32 or float64."""
        return -F.log_softmax(logits, dim=1)

    def spread(self, costs: Tensor) -> Tensor:
        """Returns the costs of a label, [B, C], from the weighted costs of the classes."""
        return costs


@dataclass(frozen=True)
class LogitAdjusted(LabelLoss):
    """Logit-adjusted cross-entropy for long tails (Menon et al., ICLR 2021, their Eq. 10).

    `cost_c(f) = −log softmax(f + τ log π)_c`. At τ = 1 it is Fisher consistent for the balanced
    error; the source takes it.

    Attributes:
        log_prior: [C], floating; log π of the training labels, see `log_prior`.
        tau: τ, at least 0.

    Raises:
        ValueError: τ is negative or not finite.
    """

    log_prior: Tensor
    tau: float = 1.0

    def __post_init__(self) -> None:
        _check_range("tau", self.tau, 0 <= self.tau < inf, "finite and at least 0")

    def costs(self, logits: Tensor) -> Tensor:
        return super().costs(logits + self.tau * self.log_prior.to(logits))


@dataclass(frozen=True)
class Smoothed(LabelLoss):
    """Cross-entropy with label smoothing (Szegedy et al., CVPR 2016).

    The label becomes `(1 − ε) y + ε/C`; with class weights the number is torch's.

    Attributes:
        epsilon: ε in [0, 1]; the source takes 0.1.

    Raises:
        ValueError: ε lies elsewhere.
    """

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        _check_range("epsilon", self.epsilon, 0 <= self.epsilon <= 1, "in [0, 1]")

    def spread(self, costs: Tensor) -> Tensor:
        return (1 - self.epsilon) * costs + self.epsilon * costs.mean(dim=1, keepdim=True)


@dataclass(frozen=True)
class GeneralizedCrossEntropy(LabelLoss):
    """Generalized cross-entropy for wrong labels (Zhang and Sabuncu, NeurIPS 2018, their Eq. 6).

    `cost_c(f) = (1 − p_c^q) / q`: towards q = 0 it is cross-entropy, at 1 half of the mean absolute
    error. It is the source's loss without its truncation.

    Attributes:
        q: in (0, 1]; the source takes 0.7.

    Raises:
        ValueError: q lies elsewhere.
    """

    q: float = 0.7

    def __post_init__(self) -> None:
        _check_range("q", self.q, 0 < self.q <= 1, "in (0, 1]")

    def costs(self, logits: Tensor) -> Tensor:
        return -torch.expm1(self.q * F.log_softmax(logits, dim=1)) / self.q


@dataclass(frozen=True)
class EarlyLearning(LabelLoss):
    """Cross-entropy with early-learning regularization (Liu et al., NeurIPS 2020, their Eq. 6).

    It adds `λ_elr · mean_i log(1 − ⟨p_i, t_i⟩)`, t_i a moving average of the network's earlier
    predictions for image i. The averages of a pair are mixed with its λ, as its labels are and as
    the source does for mixed images. Probabilities are kept in [1e-4, 1 − 1e-4].

    Attributes:
        averages: [B, C], floating; t of the batch before it was mixed, a constant; see
            `PredictionAverages`.
        strength: λ_elr, at least 0; the source takes 3 on CIFAR-10 and 7 on CIFAR-100.

    Raises:
        ValueError: λ_elr is negative or not finite.
    """

    averages: Tensor
    strength: float = 3.0

    def __post_init__(self) -> None:
        _check_range("strength", self.strength, 0 <= self.strength < inf, "finite and at least 0")

    def mixed_each(self, logits: Tensor, y: Tensor, lam: Tensor, partner: Tensor) -> Tensor:
        share = lam.unsqueeze(1)
        t = share * self.averages + (1 - share) * self.averages[partner]
        p = torch.softmax(_wide(logits), dim=1).clamp(_LEAST, 1 - _LEAST)
        regularizer = torch.log1p(-(t * p).sum(dim=1))
        return super().mixed_each(logits, y, lam, partner) + self.strength * regularizer


class PredictionAverages:
    """The moving average of the network's predictions for each training image.

    It begins at 0, as in the source of `EarlyLearning`.

    Args:
        size: N, training images.
        num_classes: C.
        momentum: β of `t ← β t + (1 − β) p`, in [0, 1); the source takes 0.7 on CIFAR-10.
        device: where it lies.

    Raises:
        ValueError: β lies elsewhere.
    """

    def __init__(
        self,
        size: int,
        num_classes: int,
        momentum: float = 0.7,
        device: torch.device | str = "cpu",
    ):
        _check_range("momentum", momentum, 0 <= momentum < 1, "in [0, 1)")
        self.values = torch.zeros(size, num_classes, device=device)
        self.momentum = momentum

    def move(self, indices: Tensor, logits: Tensor) -> Tensor:
        """Takes in the network's output on unmixed images; returns their averages, [B, C].

        Of a row that is not finite, as where float16 overflows, nothing is taken in.

        Args:
            indices: [B], int64, positions in the training set.
            logits: [B, C], floating, without a graph.
        """
        p = torch.softmax(logits.to(self.values.dtype), dim=1).clamp(_LEAST, 1 - _LEAST)
        rows = indices.to(self.values.device)
        moved = self.momentum * self.values[rows]
        moved += (1 - self.momentum) * p / p.sum(dim=1, keepdim=True)
        moved = torch.where(moved.isfinite().all(dim=1, keepdim=True), moved, self.values[rows])
        self.values[rows] = moved
        return moved


def log_prior(labels: Tensor, num_classes: int) -> Tensor:
    """Returns log π of labels, [C], float32 on the CPU: the logarithm of each class's share.

    A class without a label counts as if it had one.

    Args:
        labels: [N], int64, in [0, C).
        num_classes: C.
    """
    counts = _counts(labels, num_classes)
    return (counts / counts.sum()).log().float()


def class_weights(labels: Tensor, num_classes: int, kind: ClassWeights) -> Tensor | None:
    """Returns the weight of each class, [C], float32 on the CPU, of mean 1; None of "none".

    "inverse" is 1/n_c, of n_c labels of the class; "effective" one over the effective number of
    samples, `(1 − β) / (1 − β^n_c)` (Cui et al., CVPR 2019). A class without a label counts as if
    it had one.

    Args:
        labels: [N], int64, in [0, C).
        num_classes: C.
        kind: of CLASS_WEIGHTS.

    Raises:
        ValueError: it is none of them.
    """
    if kind not in CLASS_WEIGHTS:
        raise ValueError(f"kind must be one of {', '.join(CLASS_WEIGHTS)}; got {kind!r}")
    if kind == "none":
        return None
    counts = _counts(labels, num_classes)
    weights = 1 / counts
    if kind == "effective":
        weights = (1 - EFFECTIVE_BETA) / (1 - EFFECTIVE_BETA**counts)
    return (weights / weights.mean()).float()


def _check_range(name: str, value: float, within: bool, limits: str) -> None:
    if not within:
        raise ValueError(f"{name} must be {limits}, got {value}")


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _counts(labels: Tensor, num_classes: int) -> Tensor:
    return torch.bincount(labels.cpu(), minlength=num_classes).clamp(min=1).double()

"""This module lists losses as people have them, on logits [n, 3], and what they mean mixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import core


@dataclass(frozen=True)
class LossCase:
    """This is a loss, and its value on a mixed batch written out.

    Attributes:
        loss: what is handed to `core`.
        per_sample: of a loss of integer labels its values [n], which are mixed; None: the labels
            are mixed, one-hot.
        weight: [C], class weights in `per_sample` to divide by, or None.
    """

    loss: Any
    per_sample: Callable[[Tensor, Tensor], Tensor] | None = None
    weight: Tensor | None = None

    def mixed(self, logits: Tensor, y: Tensor, z: Tensor, lam: Tensor) -> Tensor:
        """Returns the loss of samples whose labels are y and z, both [n], in shares λ and 1 − λ."""
        if self.per_sample is None:
            first, second = F.one_hot(y, 3).to(lam), F.one_hot(z, 3).to(lam)
            value: Tensor = self.loss(logits, lam[:, None] * first + (1 - lam[:, None]) * second)
            return value
        values = lam * self.per_sample(logits, y) + (1 - lam) * self.per_sample(logits, z)
        if self.weight is None:
            return values.mean()
        return values.sum() / (lam * self.weight[y] + (1 - lam) * self.weight[z]).sum()


WEIGHT = torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64)


def cross_entropies(logits: Tensor, y: Tensor) -> Tensor:
    """Returns −log p_y of each sample, [n]."""
    return -logits.log_softmax(1)[torch.arange(len(y)), y]


def focal(logits: Tensor, y: Tensor) -> Tensor:
    """Returns the focal loss of each sample, [n]."""
    p = logits.softmax(1)[torch.arange(len(y)), y]
    return -((1 - p) ** 2) * p.log()


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Returns the multi-class margin loss of each sample, [n]."""
    right = logits[torch.arange(len(y)), y][:, None]
    return ((1 - right + logits).relu().sum(1) - 1) / 3


def brier(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the mean squared distance of probabilities from labels [n, 3]."""
    return ((logits.softmax(1) - target) ** 2).sum(1).mean()


def gaussian(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the Gaussian likelihood's loss at a variance that the logits give."""
    return F.gaussian_nll_loss(logits, target, F.softplus(logits) + 0.1)


LOSSES: dict[str, LossCase] = {
    "soft_cross_entropy": LossCase(core.soft_cross_entropy),
    "F.cross_entropy": LossCase(F.cross_entropy),
    "CrossEntropyLoss (label smoothing)": LossCase(nn.CrossEntropyLoss(label_smoothing=0.1)),
    "CrossEntropyLoss (class weights)": LossCase(
        nn.CrossEntropyLoss(WEIGHT), lambda f, y: WEIGHT[y] * cross_entropies(f, y), WEIGHT
    ),
    "BCEWithLogitsLoss": LossCase(nn.BCEWithLogitsLoss()),
    "BCEWithLogitsLoss (pos_weight)": LossCase(nn.BCEWithLogitsLoss(pos_weight=WEIGHT)),
    "BCELoss of a sigmoid": LossCase(lambda f, t: F.binary_cross_entropy(f.sigmoid(), t)),
    "MSELoss": LossCase(nn.MSELoss()),
    "L1Loss": LossCase(nn.L1Loss()),
    "SmoothL1Loss": LossCase(nn.SmoothL1Loss()),
    "HuberLoss": LossCase(nn.HuberLoss()),
    "KLDivLoss": LossCase(lambda f, t: F.kl_div(f.log_softmax(1), t, reduction="batchmean")),
    "PoissonNLLLoss": LossCase(nn.PoissonNLLLoss()),
    "GaussianNLLLoss": LossCase(gaussian),
    "MultiLabelSoftMarginLoss": LossCase(nn.MultiLabelSoftMarginLoss()),
    "HingeEmbeddingLoss": LossCase(lambda f, t: F.hinge_embedding_loss(f, 2 * t - 1)),
    "CosineEmbeddingLoss": LossCase(
        lambda f, t: F.cosine_embedding_loss(f, t, torch.ones(len(f), dtype=f.dtype))
    ),
    "TripletMarginLoss": LossCase(lambda f, t: F.triplet_margin_loss(f, t, 1 - t)),
    "Brier": LossCase(brier),
    "IndexLoss of CrossEntropyLoss": LossCase(
        core.IndexLoss(nn.CrossEntropyLoss(reduction="none")), cross_entropies
    ),
    "IndexLoss of the focal loss": LossCase(core.IndexLoss(focal), focal),
    "IndexLoss of NLLLoss": LossCase(
        core.IndexLoss(lambda f, y: F.nll_loss(f.log_softmax(1), y, reduction="none")),
        cross_entropies,
    ),
    "IndexLoss of MultiMarginLoss": LossCase(
        core.IndexLoss(nn.MultiMarginLoss(reduction="none")), margin
    ),
}

UNFIT: dict[str, Any] = {
    "NLLLoss": nn.NLLLoss(),
    "MultiMarginLoss": nn.MultiMarginLoss(),
    "MultiLabelMarginLoss": nn.MultiLabelMarginLoss(),
    "CTCLoss": nn.CTCLoss(),
    "SoftMarginLoss": lambda f, t: F.soft_margin_loss(f, 2 * t - 1),
    "reduction none": nn.CrossEntropyLoss(reduction="none"),
    "a class": nn.CrossEntropyLoss,
    "a dictionary": lambda f, t: {"loss": F.cross_entropy(f, t)},
    "a number": lambda f, t: float(F.cross_entropy(f, t).detach()),
    "nothing": lambda f, t: None,
    "a constant": lambda f, t: F.cross_entropy(f.detach(), t),
    "argmax": lambda f, t: (f.argmax(1) != t.argmax(1)).double().mean(),
    "a count": lambda f, t: (f.argmax(1) != t.argmax(1)).sum(),
    "a complex number": lambda f, t: F.cross_entropy(f, t) * 1j,
    "one argument": lambda f: f.mean(),
    "a missing key": lambda f, t: dict[str, Tensor]()["loss"],
    "a missing attribute": lambda f, t: f.no_such_thing,
    "a name": "cross_entropy",
    "None": None,
}
"""Losses that cannot be had; each is refused by name."""

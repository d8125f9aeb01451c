"""Two losses of a user's own: one of soft labels, one of integers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def brier(logits: Tensor, target: Tensor) -> Tensor:
    """Mean squared distance of the probabilities to soft labels [n, C]; integers would broadcast to
    another number, or not at all."""
    return ((logits.softmax(1) - target) ** 2).sum(1).mean()


def focal(logits: Tensor, y: Tensor) -> Tensor:
    """Focal loss [n] of integer labels, γ = 2 (Lin et al. 2017): not linear in the label."""
    log_p = F.log_softmax(logits, 1).gather(1, y[:, None])[:, 0]
    return -((1 - log_p.exp()) ** 2) * log_p

"""Learning to Reweight: each batch's weights from one hypergradient, then forgotten."""

from __future__ import annotations

import torch
from torch import Tensor

from core.policies.protocol import StepInput
from core.policies.sample_weights import SampleWeights
from core.user_model.ranks import Ranks


class LearningToReweight(SampleWeights):
    """Weights that a step on the batch wants most, anew in each batch.

    Ren, Zeng, Yang and Urtasun, "Learning to Reweight Examples for Robust Deep Learning" (ICML
    2018), Algorithm 1. The virtual step is at weights ε = 0, so it stays where it is, and tells for
    each sample i how the meta loss would change by a step on it: `u_i = −d(meta loss)/dε_i` is the
    rate times the inner product of its gradient with the meta loss's. Weights are `max(u_i, 0)`,
    normalized over the batch to the sum 1, of the sum of losses (Eqs. 12 and 13). Here weights are
    those of the mean of B losses, so they sum to B, the joint one of all ranks. Where no sample
    helps all are 0, and the real step has the optimizer's momentum and weight decay alone.

    See `SampleWeights` for what it takes.

    Examples:
        >>> import core
        >>> model, optimizer, batch, val_batch = core.testing.toy_problem()
        >>> core.LearningToReweight()(model, optimizer, batch, val_batch).weights.shape
        torch.Size([8])
    """

    def start(self, step: StepInput, like: Tensor, ranks: Ranks) -> Tensor:
        """Returns zeros; see `SampleWeights`."""
        return torch.zeros_like(like)

    def learned(self, start: Tensor, moving: Tensor, ranks: Ranks) -> Tensor:
        """Returns max(−moving, 0) with mean 1 over all ranks, or zeros; see `SampleWeights`."""
        # Hypergradients may be so small that their sum underflows.
        tiny = torch.finfo(moving.dtype).tiny
        helpful = (-moving).clamp_min(0)
        helpful = helpful / ranks.largest(helpful.max()).clamp_min(tiny)
        (mean,) = ranks.mean([helpful.mean()])
        return torch.where(mean > 0, helpful / mean.clamp_min(tiny), 0.0)

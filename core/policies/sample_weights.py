"""What policies share that learn weights of samples, where MetaMixUp learns λ.

A weight is one more variable of the virtual step's loss, so its hypergradient is that of λ in
another parametrization, and comes from the same engines.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from core.meta.gradient import Engine
from core.meta.stage import MetaOptions
from core.mixing.batch import check_batch, draw_partners
from core.mixing.interpolation import Interpolation
from core.mixing.weighting import UNMIXED, WeightedLoss
from core.policies.protocol import Policy, StepInput
from core.user_model.ranks import Ranks
from core.user_model.untraced import untraced
from core.user_model.wrapped_models import ranks_of


@dataclass
class SampleWeights(Policy):
    """A policy that mixes nothing (λ = 1, each its own partner) and weights samples in the loss.

    The virtual step is plain gradient descent at the optimizer's present rates on the weighted mean
    loss, as published for both; the real step is the optimizer's own. The hypergradient that the
    interpolation carries is d(meta loss)/d(weight of the virtual step). Nothing is drawn, but for
    the placebo's permutation.

    Attributes:
        placebo: the control: weights are learned as ever, and permuted within the batch before the
            real step, so that they are as spread as learned ones at every time and a sample gets
            the one meant for it by chance alone.
        engine: see `core.hypergradient`.
        last_blocks: the hypergradient goes through the last so many blocks alone; None: all.
    """

    placebo: bool = False
    engine: Engine = "auto"
    last_blocks: int | None = None
    needs_meta_validation = True

    @untraced
    def interpolate(self, step: StepInput) -> Interpolation:
        """Learns the weights of the batch.

        Raises:
            ValueError: `val_batch` is None; the loss does not tell the samples' losses apart, see
                `core.mixing.weighting.sample_losses`; as `core.hypergradient`.
        """
        check_batch(step.batch, "training")
        step.validation()
        x = step.batch[0]
        lam = torch.ones(len(x), dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        alone = torch.arange(len(x), device=x.device)
        ranks = ranks_of(step.model)
        start = self.start(step, lam, ranks)
        options = MetaOptions(engine=self.engine, mixing=UNMIXED, last_blocks=self.last_blocks)
        slope = step.slope(options, start.detach(), alone, WeightedLoss(step.loss))
        weights = self.learned(start, slope.moving.to(lam.dtype), ranks)
        if self.placebo:
            weights = weights[draw_partners(len(x), generator=step.generator, device=x.device)]
        return Interpolation(
            lam=lam,
            partner=alone,
            lam_init=lam,
            change=torch.zeros_like(lam),
            hypergradient=slope.hypergradient,
            meta_loss=slope.meta_loss,
            extra_samples=slope.samples + self.extra_samples(len(x)),
            weights=weights,
        )

    def extra_samples(self, n: int) -> int:
        """Returns how many samples of a batch of n it sends forward beside the meta stage."""
        return 0

    @abstractmethod
    def start(self, step: StepInput, like: Tensor, ranks: Ranks) -> Tensor:
        """Returns the weights of the virtual step, [B], dtype and device of `like` [B]."""

    @abstractmethod
    def learned(self, start: Tensor, moving: Tensor, ranks: Ranks) -> Tensor:
        """Returns the weights of the real step, [B], detached.

        Args:
            start: what `start` gave, with its graph.
            moving: [B]; d(meta loss)/d(start_i), 0 where any is not finite.
            ranks: the processes whose batches together are the batch.
        """

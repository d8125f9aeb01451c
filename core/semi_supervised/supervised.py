"""Training on the labelled images alone: what every semi-supervised method is measured against."""

from __future__ import annotations

import torch
from torch import nn

from core.mixing.batch import soft_cross_entropy
from core.semi_supervised.method import CarriesNothing, SemiBatch, SemiStep


class SupervisedOnly(CarriesNothing):
    """Cross-entropy on the labelled images, as many steps as the other methods take."""

    views = 0

    def step(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: SemiBatch,
        *,
        generator: torch.Generator,
    ) -> SemiStep:
        """See `SemiSupervisedMethod`."""
        x, y = batch.labelled
        optimizer.zero_grad(set_to_none=True)
        loss = soft_cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return SemiStep(loss.detach(), samples=len(x))

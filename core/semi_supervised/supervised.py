"""This module trains on the labelled images alone, what every method is measured against."""

from __future__ import annotations

from torch import Generator, nn
from torch.optim import Optimizer

from core.mixing.batch import soft_cross_entropy
from core.semi_supervised.method import SemiBatch, SemiStep, SemiSupervisedMethod
from core.user_model.precision import descend


class SupervisedOnly(SemiSupervisedMethod):
    """This takes cross-entropy on the labelled images, as many steps as the other methods."""

    views = 0

    def step(
        self, model: nn.Module, optimizer: Optimizer, batch: SemiBatch, *, generator: Generator
    ) -> SemiStep:
        x, y = batch.labelled
        optimizer.zero_grad(set_to_none=True)
        loss = soft_cross_entropy(model(x), y)
        descend(optimizer, loss)
        return SemiStep(loss.detach(), samples=len(x))

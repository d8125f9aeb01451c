"""This module trains on the labelled images alone, what every method is measured against."""

from __future__ import annotations

from torch import Generator, nn
from torch.optim import Optimizer

from core.mixing.batch import soft_cross_entropy
from core.semi_supervised.method import SemiBatch, SemiStep, SemiSupervisedMethod
from core.user_model.precision import descend


class SupervisedOnly(SemiSupervisedMethod):
    """This takes cross-entropy on the labelled images, as many steps as the other methods.

    Examples:
        >>> import torch
        >>> from core.semi_supervised import SemiBatch, SupervisedOnly
        >>> model = torch.nn.Linear(4, 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> labelled = torch.randn(5, 4), torch.arange(5) % 3
        >>> batch = SemiBatch(labelled, (), torch.arange(5), val=None, epoch=0, progress=0.0)
        >>> SupervisedOnly().step(model, optimizer, batch, generator=torch.Generator()).samples
        5
    """

    views = 0

    def step(
        self, model: nn.Module, optimizer: Optimizer, batch: SemiBatch, *, generator: Generator
    ) -> SemiStep:
        x, y = batch.labelled
        optimizer.zero_grad(set_to_none=True)
        loss = soft_cross_entropy(model(x), y)
        descend(optimizer, loss)
        return SemiStep(loss.detach(), samples=len(x))

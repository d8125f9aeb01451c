"""Training on the labelled images alone: what every semi-supervised method is measured against."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from core.mixing import soft_cross_entropy
from core.semi_supervised.method import SemiBatch, SemiStep


class SupervisedOnly:
    """Cross-entropy on the labelled images, as many steps as the other methods take."""

    views = 0
    needs_meta_validation = False

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

    def evaluated(self, model: nn.Module) -> nn.Module:
        """The model itself."""
        return model

    def metrics(self, epoch: int) -> dict[str, float]:
        """None."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes nothing."""

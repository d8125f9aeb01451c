"""What a training descends at each step, and what its predictions are adjusted by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from core.meta.sample_losses import logits_now
from core.mixing.batch import Loss, soft_cross_entropy
from core.mixing.remedies import (
    EarlyLearning,
    GeneralizedCrossEntropy,
    LabelLoss,
    LogitAdjusted,
    PredictionAverages,
    Smoothed,
    class_weights,
    log_prior,
)
from core.training.config import TrainingConfig
from core.training.remedies import STRENGTHS


class Objective:
    """The loss of one training, step by step.

    Priors and weights of classes are those of the labels that it trains with, as they are before
    `sampling` draws among them.

    Args:
        config: what is trained.
        labels: [N], int64, the labels that it trains with.
        num_classes: C.
        device: of the training.

    Attributes:
        adjustment: [C], float32; what is subtracted from logits in evaluation and in the validation
            loss of a meta stage, τ log π of `config.logit_adjustment`; None: nothing.
        passes: how often it sends a batch forward to find the loss.
    """

    def __init__(
        self, config: TrainingConfig, labels: Tensor, num_classes: int, device: torch.device
    ):
        prior = log_prior(labels, num_classes).to(device)
        tau = config.logit_adjustment
        self.adjustment = tau * prior if tau else None
        weight = class_weights(labels, num_classes, config.class_weights)
        weight = None if weight is None else weight.to(device)
        self._averages: PredictionAverages | None = None
        self._strength = STRENGTHS.get(config.loss, (0.0,))[0]
        if config.loss_strength is not None:
            self._strength = config.loss_strength
        shared = {"weight": weight, "adjustment": self.adjustment}
        self._loss: Loss = LabelLoss(**shared)
        if config.loss == "logit-adjusted":
            self._loss = LogitAdjusted(prior, self._strength, **shared)
        elif config.loss == "smoothed":
            self._loss = Smoothed(self._strength, **shared)
        elif config.loss == "gce":
            self._loss = GeneralizedCrossEntropy(self._strength, **shared)
        elif config.loss == "elr":
            self._averages = PredictionAverages(len(labels), num_classes, device=device)
        elif weight is None and self.adjustment is None:
            self._loss = soft_cross_entropy
        self._shared = shared
        self.passes = 0 if self._averages is None else 1

    def loss(self, model: nn.Module, x: Tensor, indices: Tensor) -> Loss:
        """Returns the loss of the step on this batch.

        Early-learning regularization first asks the network, as it stands and with the dropout
        masks that the step will draw, for its predictions of the unmixed images.

        Args:
            model: in training mode; neither it nor a random stream is changed.
            x: [B, ...], floating.
            indices: [B], int64, positions in the training set.
        """
        if self._averages is None:
            return self._loss
        averages = self._averages.move(indices, logits_now(model, x))
        return EarlyLearning(averages, self._strength, **self._shared)

    def state_dict(self) -> dict[str, Any]:
        """Returns what it carries from step to step."""
        return {} if self._averages is None else {"averages": self._averages.values}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads what `state_dict` gave."""
        if self._averages is not None:
            self._averages.values = state["averages"]

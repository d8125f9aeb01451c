"""Consistency between two views of an image: the Π-model and Mean Teacher.

As in Oliver et al., "Realistic Evaluation of Deep Semi-Supervised Learning Algorithms" (2018), and
their released code: the labelled and the unlabelled images of a step go through the network
together, in every pass, so that BatchNorm sees the same mixture each time; the pass that is trained
is the one that moves its running statistics; the other gives the target and gets no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.mixing import soft_cross_entropy
from core.semi_supervised.averaging import MovingAverage
from core.semi_supervised.held_statistics import statistics_held
from core.semi_supervised.method import SemiBatch, SemiStep
from core.semi_supervised.ramp import Ramp, ramp
from core.wrapped_models import unwrap


class CarriesNothing:
    """Of methods that carry nothing from step to step and are judged by the model itself."""

    needs_meta_validation = False

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


@dataclass(frozen=True)
class PiModel(CarriesNothing):
    """Two views of an image shall be classified alike (Laine and Aila 2017).

    The target is the same network's pass on the second view, in training mode, dropout and all.

    Attributes:
        weight: of the distance; 20 in Oliver et al.
        ramp, ramp_share: how the weight comes up; see `ramp`.
    """

    weight: float
    ramp: Ramp = "none"
    ramp_share: float = 0.0
    views = 2

    def step(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: SemiBatch,
        *,
        generator: torch.Generator,
    ) -> SemiStep:
        """See `SemiSupervisedMethod`. Draws nothing from `generator`."""
        weight = self.weight * ramp(self.ramp, batch.progress, self.ramp_share)
        return _consistency_step(model, model, optimizer, batch, weight)


class MeanTeacher:
    """The student shall classify as its own moving average does (Tarvainen and Valpola 2017).

    The teacher runs in the student's modes on the second view, so its batch statistics and dropout
    masks are its own; it has no gradients. It is averaged after each step, and it is what is
    evaluated, as its authors do. (Oliver et al. evaluate the student.)

    Args:
        teacher: the moving average of the model that will be trained; decay 0.95 in Oliver et al.
        weight: of the distance; 8 in Oliver et al.
        ramp, ramp_share: how the weight comes up; see `ramp`.
    """

    views = 2
    needs_meta_validation = False

    def __init__(
        self,
        teacher: MovingAverage,
        weight: float,
        ramp: Ramp = "none",
        ramp_share: float = 0.0,
    ) -> None:
        self.teacher, self.weight = teacher, weight
        self.ramp: Ramp = ramp
        self.ramp_share = ramp_share

    def step(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: SemiBatch,
        *,
        generator: torch.Generator,
    ) -> SemiStep:
        """See `SemiSupervisedMethod`. Draws nothing from `generator`."""
        weight = self.weight * ramp(self.ramp, batch.progress, self.ramp_share)
        student = unwrap(model)
        # Evaluation may have left it in another mode.
        for own, students in zip(self.teacher.model.modules(), student.modules(), strict=True):
            own.training = students.training
        step = _consistency_step(model, self.teacher.model, optimizer, batch, weight)
        self.teacher.update(model)
        return step

    def evaluated(self, model: nn.Module) -> nn.Module:
        """The teacher."""
        return self.teacher.model

    def metrics(self, epoch: int) -> dict[str, float]:
        """None."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The teacher's."""
        return {"teacher": self.teacher.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.teacher.load_state_dict(state["teacher"])


def probability_distance(logits: Tensor, target: Tensor) -> Tensor:
    """Squared distance of class probabilities, the mean over classes and samples. Scalar.

    The mean over classes, not the sum, is what Oliver et al. and the authors of Mean Teacher
    release: a weight from elsewhere that multiplies a sum is C times as strong.

    Args:
        logits: [U, C], floating; the result is differentiable in them.
        target: [U, C], logits of the other pass; constants.
    """
    return (logits.softmax(dim=1) - target.detach().softmax(dim=1)).square().mean()


def _consistency_step(
    model: nn.Module,
    teacher: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: SemiBatch,
    weight: float,
) -> SemiStep:
    """One step on cross-entropy plus `weight` times the distance to what `teacher` says."""
    x, y = batch.labelled
    n = len(x)
    optimizer.zero_grad()
    first, second = (torch.cat([x, view]) for view in batch.views)
    logits = model(first)
    with torch.no_grad(), statistics_held(teacher):
        target = teacher(second)
    loss = soft_cross_entropy(logits[:n], y)
    loss = loss + weight * probability_distance(logits[n:], target[n:])
    loss.backward()
    optimizer.step()
    return SemiStep(loss=loss.detach(), samples=len(first) + len(second))

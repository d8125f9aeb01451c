"""This module holds methods of consistency between two views: the Π-model and Mean Teacher.

As in Oliver et al., "Realistic Evaluation of Deep Semi-Supervised Learning Algorithms" (2018), and
their released code: the labelled and the unlabelled images of a step go through the network
together, in every pass, so that BatchNorm sees the same mixture each time; the pass that is trained
is the one that moves its running statistics; the other gives the target and gets no gradient.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from core.mixing.batch import soft_cross_entropy
from core.semi_supervised.averaging import CarriesAverage
from core.semi_supervised.config import SemiSupervisedConfig
from core.semi_supervised.method import SemiBatch, SemiStep, SemiSupervisedMethod
from core.user_model.held_statistics import statistics_held
from core.user_model.precision import descend
from core.user_model.wrapped_models import unwrap


class PiModel(SemiSupervisedMethod):
    """Two views of an image shall be classified alike (Laine and Aila 2017).

    The target is the same network's pass on the second view, in training mode, dropout and all.

    Args:
        config: of kind "pi-model"; the weight of the distance is 20 in Oliver et al.

    Examples:
        >>> from core.semi_supervised import PiModel, SemiSupervisedConfig
        >>> config = SemiSupervisedConfig("pi-model", labelled=40)
        >>> PiModel(config).views
        2
    """

    views = 2

    def __init__(self, config: SemiSupervisedConfig) -> None:
        self._config = config

    def step(
        self, model: nn.Module, optimizer: Optimizer, batch: SemiBatch, *, generator: Generator
    ) -> SemiStep:
        """See `SemiSupervisedMethod`. Draws nothing from `generator`."""
        weight = self._config.weight_at(batch.progress)
        return _consistency_step(model, model, optimizer, batch, weight)


class MeanTeacher(CarriesAverage):
    """The student shall classify as its own moving average does (Tarvainen and Valpola 2017).

    The teacher runs in the student's modes on the second view, so its batch statistics and dropout
    masks are its own; it has no gradients. It is averaged after each step, and it is what is
    evaluated, as its authors do. (Oliver et al. evaluate the student.)

    Args:
        config: of kind "mean-teacher"; in Oliver et al. the weight of the distance is 8 and the
            decay of the average 0.95.
        model: that will be trained; the teacher starts as its copy.

    Attributes:
        average: the teacher.

    Examples:
        >>> import torch
        >>> from core.semi_supervised import MeanTeacher, SemiSupervisedConfig
        >>> model = torch.nn.Linear(4, 3)
        >>> config = SemiSupervisedConfig("mean-teacher", labelled=40, ema=0.99)
        >>> MeanTeacher(config, model).views
        2
    """

    views = 2

    def __init__(self, config: SemiSupervisedConfig, model: nn.Module) -> None:
        assert config.ema is not None
        self._config = config
        super().__init__(model, config.ema)

    def step(
        self, model: nn.Module, optimizer: Optimizer, batch: SemiBatch, *, generator: Generator
    ) -> SemiStep:
        """See `SemiSupervisedMethod`. Draws nothing from `generator`."""
        weight = self._config.weight_at(batch.progress)
        # Evaluation may have left it in another mode.
        modules = zip(self.average.model.modules(), unwrap(model).modules(), strict=True)
        for teachers, students in modules:
            teachers.training = students.training
        step = _consistency_step(model, self.average.model, optimizer, batch, weight)
        self.average.update(model)
        return step


def probability_distance(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the squared distance of probabilities, the mean over classes and samples.

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
    optimizer: Optimizer,
    batch: SemiBatch,
    weight: float,
) -> SemiStep:
    """Takes one step on cross-entropy plus `weight` times the distance to what `teacher` says."""
    x, y = batch.labelled
    n = len(x)
    optimizer.zero_grad()
    first, second = (torch.cat([x, view]) for view in batch.views)
    logits = model(first)
    with torch.no_grad(), statistics_held(teacher):
        target = teacher(second)
    loss = soft_cross_entropy(logits[:n], y)
    loss = loss + weight * probability_distance(logits[n:], target[n:])
    descend(optimizer, loss)
    return SemiStep(loss=loss.detach(), samples=len(first) + len(second))

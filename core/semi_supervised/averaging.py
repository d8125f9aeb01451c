"""This module averages a model: Mean Teacher's teacher, and what MixMatch evaluates."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from core.semi_supervised.method import SemiSupervisedMethod
from core.user_model.logits import with_logits
from core.user_model.untouched import copyable
from core.user_model.wrapped_models import logits_of, unwrap


class MovingAverage:
    """This takes `average ← decay·average + (1 − decay)·parameter`, from each first value on.

    Buffers are the model's own, copied: BatchNorm's running statistics are averages already, and a
    counter has no average. That is what Oliver et al. and the authors of MixMatch release; neither
    lets the decay warm up, as the authors of Mean Teacher do.

    Args:
        model: what is averaged, as it stands now; it may be wrapped (see `unwrap`).
        decay: in [0, 1).

    Attributes:
        model: the average, a module of its own without gradients, that gives logits. Modes (train,
            eval) are the caller's affair.

    Raises:
        ValueError: decay lies outside [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay of a moving average must lie in [0, 1), got {decay}")
        plain = unwrap(model)
        with copyable(plain):
            copied = copy.deepcopy(plain).requires_grad_(False)
        self.model = with_logits(copied, logits_of(model))
        self._average = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes one step towards `model`, after the optimizer's. `model` is only read."""
        model = unwrap(model)
        averages, newest = dict(self.model.named_parameters()), dict(model.named_parameters())
        self._average(list(averages.values()), [newest[name] for name in averages], 0)
        buffers = dict(model.named_buffers())
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name])

    def state_dict(self) -> dict[str, Any]:
        """Returns the averaged network's state; the tensors are live."""
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the state over; copies."""
        self.model.load_state_dict(state)


class CarriesAverage(SemiSupervisedMethod):
    """A method that carries a moving average of the network and is judged by it.

    Args:
        model: that will be trained; the average begins as its copy.
        decay: of the average, in [0, 1).

    Attributes:
        average: the moving average; its method updates it after each step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.average = MovingAverage(model, decay)

    def evaluated(self, model: nn.Module) -> nn.Module:
        """Returns the moving average."""
        return self.average.model

    def state_dict(self) -> dict[str, Any]:
        """Returns that of the moving average."""
        return {"average": self.average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the moving average's state over."""
        self.average.load_state_dict(state["average"])

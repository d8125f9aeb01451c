"""This module lists optimizers whose own step the virtual step is asked to be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, optim


class Sign(optim.Optimizer):
    """This is an optimizer from elsewhere: sign descent, as in Lion."""

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Moves each number by the rate."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(p.grad.sign(), alpha=group["lr"])


OPTIMIZERS: dict[str, Callable[[Iterable[Tensor]], optim.Optimizer]] = {
    "SGD": lambda p: optim.SGD(p, lr=0.3),
    "SGD (momentum)": lambda p: optim.SGD(p, lr=0.3, momentum=0.9),
    "SGD (momentum, dampening)": lambda p: optim.SGD(p, lr=0.3, momentum=0.9, dampening=0.1),
    "SGD (Nesterov, weight decay)": lambda p: optim.SGD(
        p, lr=0.3, momentum=0.9, nesterov=True, weight_decay=0.01
    ),
    "SGD (maximize)": lambda p: optim.SGD(p, lr=0.3, maximize=True),
    "Adam": lambda p: optim.Adam(p, lr=0.05),
    "Adam (weight decay)": lambda p: optim.Adam(p, lr=0.05, weight_decay=0.01),
    "Adam (amsgrad)": lambda p: optim.Adam(p, lr=0.05, amsgrad=True),
    "AdamW": lambda p: optim.AdamW(p, lr=0.05),
    "Adamax": lambda p: optim.Adamax(p, lr=0.05),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.05),
    "RMSprop (momentum, centered)": lambda p: optim.RMSprop(
        p, lr=0.05, momentum=0.9, centered=True
    ),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.05),
    "Adadelta": lambda p: optim.Adadelta(p, lr=1.0),
    "ASGD": lambda p: optim.ASGD(p, lr=0.05),
    "Rprop": lambda p: optim.Rprop(p, lr=0.05),
    "NAdam": lambda p: optim.NAdam(p, lr=0.05),
    "RAdam": lambda p: optim.RAdam(p, lr=0.05),
    "Adafactor": lambda p: optim.Adafactor(p, lr=0.05),
    "LBFGS": lambda p: optim.LBFGS(p, lr=0.05),
    "an optimizer from elsewhere": lambda p: Sign(p, lr=0.05),
}
"""Each makes one for given parameters."""

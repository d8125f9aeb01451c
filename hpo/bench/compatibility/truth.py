"""This module knows what an engine must say, by plain training: a copy, `backward`, `SGD.step`.

A hypergradient is held against central differences of plain training along one direction of λ. A
difference also sees what autograd is told not to, such as values under `torch.no_grad`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

import core
from hpo.bench.compatibility.losses import LossCase

LR, H, CLASSES = 0.3, 1e-6, 3

MakeOptimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


class Data:
    """These are six samples of four features to learn from and five to validate on, float64."""

    def __init__(self) -> None:
        stream = torch.Generator().manual_seed(0)
        self.x = torch.randn(6, 4, generator=stream, dtype=torch.float64)
        self.y = torch.tensor([0, 1, 2, 2, 1, 0])
        self.x_val = torch.randn(5, 4, generator=stream, dtype=torch.float64)
        self.y_val = torch.tensor([2, 0, 1, 1, 0])
        self.lam = torch.linspace(0.2, 0.9, 6, dtype=torch.float64)
        self.partner = torch.arange(6).roll(1)
        self.direction = torch.randn(6, generator=stream, dtype=torch.float64)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """Returns what `core.hypergradient` takes after the model."""
        return (self.x, self.y), (self.x_val, self.y_val), self.lam, self.partner


def network(layer: nn.Module) -> nn.Module:
    """Returns a classifier of `Data` around a layer [n, 8] → [n, 8], in float64."""
    model = nn.Sequential(nn.Linear(4, 8), layer, nn.Linear(8, CLASSES)).double()
    model(Data().x)  # layers that find their own size
    return model


def sgd(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """Returns plain descent at `LR`."""
    return torch.optim.SGD(parameters, lr=LR)


def warm(model: nn.Module, data: Data, make: MakeOptimizer) -> torch.optim.Optimizer:
    """Returns the optimizer after three steps of training, with the state that it has then."""
    optimizer = make(model.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(data.x), data.y)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)  # type: ignore[arg-type]
    return optimizer


def slope(
    model: nn.Module,
    data: Data,
    case: LossCase,
    make: MakeOptimizer = sgd,
    optimizer: torch.optim.Optimizer | None = None,
) -> float:
    """Returns the derivative of the validation loss along `data.direction`, by differences.

    Args:
        model, data, case: what is trained, on what, by which loss.
        make: makes the optimizer of the step for copies of the parameters.
        optimizer: whose state it begins with; None: none.
    """
    state = None if optimizer is None else optimizer.state_dict()
    up, down = (
        _trained(model, data, case, make, state, data.lam + sign * H * data.direction)
        for sign in (1, -1)
    )
    return (up - down) / (2 * H)


def error(
    model: nn.Module,
    data: Data,
    case: LossCase,
    engine: Any,
    slope: float,
    optimizer: torch.optim.Optimizer | None = None,
) -> float:
    """Returns how far an engine is off along `data.direction`, over what it could be at most.

    Raises:
        ValueError: the engine refuses.
    """
    torch.manual_seed(0)
    inner: Any = {"lr": LR} if optimizer is None else {"optimizer": optimizer}
    value = core.hypergradient(model, *data.arguments, engine=engine, loss=case.loss, **inner)
    most = float(value.norm() * data.direction.norm())
    off = abs(float(value @ data.direction) - slope)
    return off / most if most > 0 else off


def _trained(
    model: nn.Module,
    data: Data,
    case: LossCase,
    make: MakeOptimizer,
    state: dict[str, Any] | None,
    lam: Tensor,
) -> float:
    """Returns the validation loss after one step of plain training on the mixed batch."""
    torch.manual_seed(0)  # the masks of dropout
    model = copy.deepcopy(model)
    buffers = [b.clone() for b in model.buffers()]
    x = lam[:, None] * data.x + (1 - lam[:, None]) * data.x[data.partner]
    loss = case.mixed(model(x), data.y, data.y[data.partner], lam)
    loss.backward()
    optimizer = make(model.parameters())
    if state is not None:
        optimizer.load_state_dict(copy.deepcopy(state))
    optimizer.step(lambda: loss)  # type: ignore[arg-type,return-value]
    for b, before in zip(model.buffers(), buffers, strict=True):
        b.copy_(before)
    ones = torch.ones(len(data.y_val), dtype=lam.dtype)
    return float(case.mixed(model(data.x_val), data.y_val, data.y_val, ones).detach())

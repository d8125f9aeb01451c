"""Complex weights, as in networks of signals: hypergradients are differences of plain training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import core
from tests.support.differences import differences


class Power(nn.Module):
    """Logits are the power |x W|² of complex features."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        w = torch.randn(4, 3, dtype=torch.complex128, generator=generator)
        self.w = nn.Parameter(w / 2)

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.w.dtype) @ self.w).abs().square()


X = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
BATCH, VAL = (X[:5], torch.arange(5) % 3), (X[5:], torch.arange(4) % 3)
PARTNER = torch.arange(5).roll(2)


def trained(steps: int, momentum: float) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = Power()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(BATCH[0]), BATCH[1]).backward()
        optimizer.step()
    return model, optimizer


def meta_loss(lam: Tensor) -> float:
    model, optimizer = trained(2, 0.9)
    weight, labels = lam.unsqueeze(1), torch.eye(3, dtype=torch.float64)[BATCH[1]]
    x, y = (weight * t + (1 - weight) * t[PARTNER] for t in (BATCH[0], labels))
    optimizer.zero_grad()
    (-(y * F.log_softmax(model(x), 1)).sum(1).mean()).backward()
    optimizer.step()
    with torch.no_grad():
        return float(F.cross_entropy(model(VAL[0]), VAL[1]))


ENGINES: tuple[Any, ...] = ("auto", "unroll", "forward_reverse")


@pytest.mark.parametrize("engine", ENGINES)
def test_through_the_step_of_sgd_with_momentum(engine: Any) -> None:
    lam = torch.linspace(0.2, 0.9, 5, dtype=torch.float64)
    truth = differences(meta_loss, lam, 1e-5)
    model, optimizer = trained(2, 0.9)
    got = core.hypergradient(model, BATCH, VAL, lam, PARTNER, optimizer=optimizer, engine=engine)
    torch.testing.assert_close(got, truth, rtol=1e-5, atol=1e-8)

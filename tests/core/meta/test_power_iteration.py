"""Buffers that a pass moves and reads, as the vectors of `spectral_norm`, are constant in the
hypergradient as in torch's gradients, and each pass begins with those of the model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm

from core.meta.gradient import hypergradient
from tests.support.differences import differences

RATE = 0.5
ENGINES = ["auto", "unroll", "double_backward", "forward_reverse"]


@pytest.fixture
def batches() -> dict[str, Any]:
    drawn = torch.Generator().manual_seed(0)

    def batch(n: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, 16, generator=drawn, dtype=torch.float64)
        return x, torch.randint(0, 5, (n,), generator=drawn)

    lam = torch.rand(8, generator=drawn, dtype=torch.float64)
    partner = torch.roll(torch.arange(8), 1)
    return {"batch": batch(8), "val_batch": batch(6), "lam": lam, "partner": partner}


def network(iterations: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = [
            spectral_norm(nn.Linear(a, b), n_power_iterations=iterations)
            for a, b in ((16, 12), (12, 5))
        ]
        return nn.Sequential(layers[0], nn.Tanh(), layers[1]).double().train()


def loss_of_mix(model: nn.Module, theta: dict[str, Tensor], of: dict[str, Any]) -> Tensor:
    (x, y), lam, partner = of["batch"], of["lam"], of["partner"]
    t, weight = F.one_hot(y, 5).double(), lam[:, None]
    mixed = weight * x + (1 - weight) * x[partner]
    target = weight * t + (1 - weight) * t[partner]
    return F.cross_entropy(functional_call(model, theta, (mixed,)), target)


def trained(model: nn.Module, of: dict[str, Any]) -> float:
    """Returns the validation loss after a step of plain training."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    loss_of_mix(model, dict(model.named_parameters()), of).backward()
    optimizer.step()
    x, y = of["val_batch"]
    with torch.no_grad():
        return F.cross_entropy(model(x), y).item()


@pytest.mark.parametrize("engine", ENGINES)
def test_with_one_iteration_it_is_torchs_own_derivative(
    engine: Any, batches: dict[str, Any]
) -> None:
    model = network(1)
    given = hypergradient(model, lr=RATE, engine=engine, **batches)
    before = [buffer.clone() for buffer in model.buffers()]
    lam = batches["lam"].clone().requires_grad_()
    theta = dict(model.named_parameters())
    loss = loss_of_mix(model, theta, batches | {"lam": lam})
    gradients = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
    for buffer, value in zip(model.buffers(), before, strict=True):
        assert not torch.equal(buffer, value)
        buffer.copy_(value)
    ahead = {name: p - RATE * g for (name, p), g in zip(theta.items(), gradients, strict=True)}
    x, y = batches["val_batch"]
    meta_loss = F.cross_entropy(functional_call(model, ahead, (x,)), y)
    torch.testing.assert_close(given, torch.autograd.grad(meta_loss, lam)[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_with_many_it_is_the_derivative_of_plain_training(
    engine: Any, batches: dict[str, Any]
) -> None:
    model = network(30)
    given = hypergradient(model, lr=RATE, engine=engine, **batches)
    truth = differences(lambda lam: trained(model, batches | {"lam": lam}), batches["lam"], 1e-5)
    assert given.tolist() == pytest.approx(truth.tolist(), rel=1e-6, abs=1e-9)

"""Each peer against `core.hypergradient` in float64, on a small smooth network."""

from __future__ import annotations

import copy
import importlib.util
import math
import sys

import pytest
import torch
from torch import nn

import core
from hpo.bench.cost.bench import Bench
from hpo.bench.cost.peers import PACKAGES, PEERS

MODULES = {"betty_darts": "betty"}
EXACT = ["higher", "torchopt", "betty", "learn2learn"]
# As in pyproject.toml: what does not install here is not looked for.
if sys.version_info >= (3, 11):
    EXACT.remove("learn2learn")
if sys.version_info >= (3, 12):
    EXACT.remove("betty")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 4)]
    return nn.Sequential(*layers).double()


def bench(lr: float = 0.3) -> Bench:
    model = network()
    g = torch.Generator().manual_seed(1)

    def images(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(n, 1, 6, 6, generator=g, dtype=torch.float64)
        return x, torch.randint(4, (n,), generator=g)

    return Bench(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9),
        batch=images(7),
        val_batch=images(5),
        lam=torch.rand(7, generator=g, dtype=torch.float64),
        partner=torch.arange(7).roll(2),
        autocast=None,
        generator=g,
    )


def exact(b: Bench, lam: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
    return core.hypergradient(b.model, b.batch, b.val_batch, lam, partner, lr=b.lr, engine="unroll")


def need(name: str) -> None:
    if importlib.util.find_spec(MODULES.get(name, name)) is None:
        pytest.skip(f"not installed: pip install {PACKAGES[name]}")


@pytest.mark.filterwarnings("default")  # theirs, not ours
@pytest.mark.parametrize("name", EXACT)
def test_a_peer_computes_the_same_derivative_each_time_it_is_asked(name: str) -> None:
    need(name)
    b = bench()
    ask = PEERS[name](b)
    before = copy.deepcopy(list(b.model.parameters()))
    for shift in (1, 3):
        lam, partner = b.lam.roll(shift), torch.arange(7).roll(shift)
        truth = exact(b, lam, partner)
        assert truth.abs().max() > 1e-3
        torch.testing.assert_close(ask(lam, partner), truth, rtol=1e-10, atol=1e-13)
    now = list(b.model.parameters())
    assert all(isinstance(p, nn.Parameter) for p in now)
    assert all(torch.equal(p, q) for p, q in zip(now, before, strict=True))
    held = [p for group in b.optimizer.param_groups for p in group["params"]]
    assert [id(p) for p in held] == [id(p) for p in now]


@pytest.mark.filterwarnings("default")
def test_betty_by_default_is_off_by_an_error_that_vanishes_with_the_rate() -> None:
    need("betty_darts")
    errors = []
    for lr in (0.3, 0.03, 0.003):
        b = bench(lr)
        truth = exact(b, b.lam, b.partner)
        approximate = PEERS["betty_darts"](b)(b.lam, b.partner)
        errors.append(float((approximate - truth).norm() / truth.norm()))
    # Of first order in the rate: the mixed derivative is taken at θ′ instead of at θ.
    assert 1e-2 < errors[0] < 1
    assert math.log10(errors[0] / errors[1]) == pytest.approx(1, abs=0.3)
    assert errors[2] < 0.02


def test_every_peer_has_a_package() -> None:
    assert PEERS.keys() == PACKAGES.keys()

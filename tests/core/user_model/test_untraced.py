"""Steps inside a function that the user compiles: as outside of it."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor, nn, optim

import core

Step = Callable[[nn.Module, optim.Optimizer, Tensor, Generator], Tensor]

Y, VAL_Y, PARTNER = torch.arange(6) % 3, torch.arange(5) % 3, torch.arange(6).flip(0)
VAL = (torch.linspace(-2, 2, 20).view(5, 4), VAL_Y)


def by(policy: core.Policy) -> Step:
    return lambda model, optimizer, x, generator: (
        policy(model, optimizer, (x, Y), VAL, generator=generator, indices=torch.arange(6)).lam
    )


def hypergradient(model: nn.Module, _: optim.Optimizer, x: Tensor, __: Generator) -> Tensor:
    return core.hypergradient(model, (x, Y), VAL, torch.full((6,), 0.4), PARTNER, lr=0.1)


def mixed(model: nn.Module, optimizer: optim.Optimizer, x: Tensor, generator: Generator) -> Tensor:
    interpolation = core.Beta()(model, optimizer, (x, Y), generator=generator)
    return core.mixed_step(model, optimizer, (x, Y), interpolation).loss


def metamixup(m: nn.Module, optimizer: optim.Optimizer, x: Tensor, generator: Generator) -> Tensor:
    return core.metamixup_step(m, optimizer, (x, Y), VAL, generator=generator).loss


class LearnedFromTheStart(core.LearnedBeta):
    """It was told how long the training is."""

    def __init__(self) -> None:
        super().__init__(begin=0.0, every=2)
        self.at(0, 20)


STEPS: dict[str, Callable[[], Step]] = {
    "metamixup_step": lambda: metamixup,
    "hypergradient": lambda: hypergradient,
    "mixed_step": lambda: mixed,
    "Learned": lambda: by(core.Learned()),
    "PersistentScores": lambda: by(core.PersistentScores()),
    "LearnedBeta": lambda: by(LearnedFromTheStart()),
    "Amortised": lambda: by(core.Amortised(every=2)),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_compiled_caller_gets_the_numbers_of_a_plain_one(name: str) -> None:
    net = nn.Linear(4, 3)

    def train(compiled: bool) -> list[Tensor]:
        model, step = copy.deepcopy(net), STEPS[name]()
        optimizer, generator = optim.SGD(model.parameters(), lr=0.1), Generator().manual_seed(0)
        x = torch.linspace(-1, 1, 24).view(6, 4)

        def scaled(x: Tensor) -> Tensor:
            return 1 * step(model, optimizer, 2 * x, generator)

        call = torch.compile(scaled, backend="eager") if compiled else scaled
        return [call(x), call(x), *model.parameters()]

    for compiled, plain in zip(train(True), train(False), strict=True):
        assert torch.equal(compiled, plain)


def test_who_compiles_nothing_loads_no_compiler_and_sees_no_warning() -> None:
    """In a fresh process, the first use of dual numbers among the rest."""
    code = """
import sys, torch, core
model = torch.nn.Linear(4, 3)
batch = torch.randn(6, 4), torch.arange(6) % 3
core.learn_interpolation(model, batch, batch, lr=0.1)
assert "torch._dynamo" not in sys.modules
lam, partner = torch.rand(6), torch.arange(6).roll(1)
core.hypergradient(model, batch, batch, lam, partner, lr=0.1, engine="forward_reverse")
"""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")

"""Random streams that layers hold themselves: every pass of a meta stage draws the same."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import core
from core.random_streams import unmoved_by_errors

X = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
BATCH = X, torch.arange(8) % 3
LAM, PARTNER = torch.linspace(0.1, 0.9, 8, dtype=torch.float64), torch.arange(8).roll(1)


class Dropout(nn.Module):
    """By a stream of its own; seeded anew it is the same as one that draws from the global one."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.stream: Any = {
            "torch": lambda: torch.Generator().manual_seed(1),
            "numpy": lambda: np.random.default_rng(1),
            "python": lambda: random.Random(1),
        }[kind]()

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.stream, torch.Generator):
            drawn = torch.rand(x.shape, generator=self.stream)
        elif isinstance(self.stream, np.random.Generator):
            drawn = torch.from_numpy(self.stream.random(x.shape))
        else:
            drawn = torch.tensor([self.stream.random() for _ in range(x.numel())]).view(x.shape)
        return x * (drawn > 0.5)


@pytest.mark.parametrize("kind", ["torch", "numpy", "python"])
def test_all_engines_draw_alike_and_leave_it_where_it_was(kind: str) -> None:
    torch.manual_seed(0)
    dropout = Dropout(kind)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), dropout, nn.Linear(16, 3)).double()
    values = {
        engine: core.hypergradient(model, BATCH, BATCH, LAM, PARTNER, lr=0.3, engine=engine)
        for engine in ("auto", "unroll", "forward_reverse", "finite_difference")
    }
    for value in values.values():
        assert float((value - values["unroll"]).norm() / value.norm()) < 1e-5
    fresh = Dropout(kind)
    x = torch.ones(5, 7, dtype=torch.float64)
    assert torch.equal(dropout(x), fresh(x))


def test_an_error_leaves_a_stream_where_it_was() -> None:
    stream = torch.Generator().manual_seed(3)
    model = nn.Linear(4, 3).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrong = BATCH[0], BATCH[1] + 3
    for generator in (stream, None):
        before = (stream.get_state(), torch.get_rng_state())
        with pytest.raises(ValueError, match="labels must lie in"):
            core.metamixup_step(model, optimizer, BATCH, wrong, generator=generator)
        assert torch.equal(stream.get_state(), before[0])
        assert torch.equal(torch.get_rng_state(), before[1])
    core.metamixup_step(model, optimizer, BATCH, BATCH, generator=stream)
    assert not torch.equal(stream.get_state(), before[0])


def test_without_an_error_it_moves_on() -> None:
    stream = torch.Generator().manual_seed(3)
    with unmoved_by_errors(stream):
        first = torch.rand(2, generator=stream)
    assert not torch.equal(torch.rand(2, generator=stream), first)
    with pytest.raises(ValueError, match="generator must be"), unmoved_by_errors(3):  # type: ignore[arg-type]
        pass

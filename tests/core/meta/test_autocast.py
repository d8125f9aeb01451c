"""Meta stages under autocast: their backward passes are the real step's, outside of the region."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import core
from core.meta.engines import compiled

HALF = torch.bfloat16


class Island(nn.Module):
    """A network that leaves the region, as people do where half precision is too coarse."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.body(x)  # type: ignore[no-any-return]


class Cosine(nn.Module):
    """A classifier by angles, at a scale of 64, as in face recognition, in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(20, 16)
        self.centers = nn.Parameter(torch.randn(10, 16))

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        with torch.autocast("cpu", enabled=False):
            return 64 * F.normalize(features.float(), dim=1) @ F.normalize(self.centers, dim=1).T


@pytest.fixture
def arguments() -> tuple[Any, ...]:
    torch.manual_seed(0)
    batch, val_batch = ((torch.randn(16, 20), torch.randint(10, (16,))) for _ in range(2))
    return batch, val_batch, 0.1 + 0.8 * torch.rand(16), torch.randperm(16)


@pytest.mark.parametrize(
    ("engine", "within", "inner"),
    [
        *((engine, 1e-6, "descent") for engine in ("auto", "unroll", "forward_reverse")),
        ("finite_difference", 1e-3, "descent"),
        ("auto", 1e-6, "Adam"),
        ("unroll", 1e-6, "Adam"),
    ],
)
def test_what_leaves_the_region_is_differentiated_in_float32(
    engine: Any, within: float, inner: str, arguments: tuple[Any, ...]
) -> None:
    model = Island()
    step: Any = {"lr": 0.01}
    if inner == "Adam":
        step = {"optimizer": torch.optim.Adam(model.parameters(), lr=0.01)}
    full = core.hypergradient(model, *arguments, **step)
    with torch.autocast("cpu", dtype=HALF):
        value = core.hypergradient(model, *arguments, engine=engine, **step)
    assert float((value - full).norm() / full.norm()) < within


def test_so_it_is_in_one_graph(arguments: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    model = Island()
    full = core.hypergradient(model, *arguments, lr=0.01)
    with torch.autocast("cpu", dtype=HALF):
        value = core.hypergradient(model, *arguments, lr=0.01, engine="compiled")
    assert float((value - full).norm() / full.norm()) < 1e-6


def test_a_second_derivative_that_overflows_is_taken_at_a_smaller_scale(
    arguments: tuple[Any, ...],
) -> None:
    torch.manual_seed(0)
    model, (batch, val_batch, lam, partner) = Cosine(), arguments
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    given: Any = {"optimizer": optimizer, "lam": lam, "partner": partner}
    full = core.learn_interpolation(model, batch, val_batch, **given).hypergradient
    assert full is not None
    learned = core.learn_interpolation(
        model, batch, val_batch, autocast=torch.float16, scale=2.0**40, **given
    )
    scaled = learned.hypergradient
    assert scaled is not None
    assert learned.extra_samples >= 2 * (16 + 16)  # each stage counts
    assert float((scaled - full).norm() / full.norm()) < 0.05


def test_what_is_not_finite_at_any_scale_moves_nothing_and_is_said(
    arguments: tuple[Any, ...],
) -> None:
    model, (batch, (x, y), _, _) = Island(), arguments
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with pytest.warns(RuntimeWarning, match="was not finite, so λ was not moved") as caught:
        found = core.learn_interpolation(
            model, batch, (x * float("nan"), y), optimizer=optimizer, scale=2.0**16
        )
    assert len(caught) == 1
    assert torch.equal(found.change, torch.zeros(16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        core.learn_interpolation(model, batch, (x, y), optimizer=optimizer, scale=2.0**16)

"""Models that take a derivative in their forward pass, against plain training steps.

The truth needs two orders only, which torch's norms have: central differences of the validation
loss after one `backward()` and `SGD.step()`, in float64.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import core
from core.meta.engines.any_order import _PlainNorms
from tests.support.differences import differences

LR, H = 0.3, 1e-6
RUNNING = (torch.zeros(4).double(), torch.ones(4).double())


def channels(x: Tensor) -> Tensor:
    return x.unflatten(1, (4, 2))


TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
NORMS: dict[str, Callable[[], nn.Module]] = {
    "batch": lambda: nn.BatchNorm1d(8),
    "batch, no weights": lambda: nn.BatchNorm1d(8, affine=False, track_running_stats=False),
    "evaluation": lambda: nn.BatchNorm1d(8).eval(),
    "layer": lambda: nn.LayerNorm(8),
    "layer, two axes": lambda: By(nn.LayerNorm((4, 2), bias=False)),
    "instance": lambda: By(nn.InstanceNorm1d(4, affine=True)),
    "instance, running": lambda: By(nn.InstanceNorm1d(4, track_running_stats=True)),
    "group": lambda: By(nn.GroupNorm(2, 4)),
    "torch.batch_norm": lambda: By(
        lambda x: torch.batch_norm(
            x, None, None, *(r.to(x.dtype) for r in RUNNING), True, 0.0, 1e-5, False
        )
    ),
    "torch.instance_norm": lambda: By(
        lambda x: torch.instance_norm(x, None, None, None, None, True, 0.1, 1e-5, False)
    ),
    "torch.layer_norm": lambda: By(lambda x: torch.layer_norm(x, [2], eps=0.1)),
}


class By(nn.Module):
    """Features as four channels of two pixels."""

    def __init__(self, body: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(channels(x)).flatten(1)


class Energy(nn.Module):
    """Its features are the slope of an energy; `by` takes it."""

    def __init__(self, norm: nn.Module, by: str) -> None:
        super().__init__()
        self.inp, self.norm, self.head = nn.Linear(4, 8), norm, nn.Linear(4, 3)
        self.by = by

    def energy(self, x: Tensor) -> Tensor:
        return torch.tanh(self.norm(self.inp(x))).pow(3).sum()

    def forward(self, x: Tensor) -> Tensor:
        if self.by == "transform":
            slope = torch.func.grad(self.energy)(x)
        else:
            with torch.enable_grad():
                x = x if x.requires_grad else x.requires_grad_()
                (slope,) = torch.autograd.grad(self.energy(x), x, create_graph=True)
        out: Tensor = self.head(x + slope)
        return out


class Case:
    def __init__(self, norm: Callable[[], nn.Module], by: str = "autograd") -> None:
        torch.manual_seed(0)
        self.model = Energy(norm(), by).double()
        self.x, self.x_val = torch.randn(2, 6, 4, dtype=torch.float64)
        self.y = torch.tensor([0, 1, 2, 2, 1, 0])
        self.lam = torch.linspace(0.2, 0.9, 6, dtype=torch.float64)
        self.partner = torch.arange(6).roll(1)

    def learned(self, engine: Any) -> Tensor:
        batch, val_batch = (self.x, self.y), (self.x_val, self.y)
        return core.hypergradient(
            self.model, batch, val_batch, self.lam, self.partner, lr=LR, engine=engine
        )

    def after_a_step(self, lam: Tensor) -> float:
        model = copy.deepcopy(self.model)
        ours, classes = lam[:, None], F.one_hot(self.y).double()
        y = ours * classes + (1 - ours) * classes[self.partner]
        logits = model(ours * self.x + (1 - ours) * self.x[self.partner])
        optimizer = torch.optim.SGD(model.parameters(), lr=LR)
        (-(y * logits.log_softmax(1)).sum(1).mean()).backward()
        optimizer.step()
        return float(F.cross_entropy(model(self.x_val), self.y).detach())

    def truth(self) -> Tensor:
        return differences(self.after_a_step, self.lam, H)


def assert_close(value: Tensor, truth: Tensor) -> None:
    assert float(truth.norm()) > 1e-3
    assert float((value - truth).norm() / truth.norm()) < 1e-6


@pytest.mark.parametrize("engine", ["auto", "unroll", "forward_reverse"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_model_that_differentiates_is_exact(norm: str, engine: Any) -> None:
    if norm == "group" and engine == "forward_reverse" and TORCH >= (2, 14):
        pytest.skip("refused by name from torch 2.14 on")
    case = Case(NORMS[norm])
    before = copy.deepcopy(case.model.state_dict())
    assert_close(case.learned(engine), case.truth())
    for name, value in case.model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("engine", ["auto", "unroll"])
@pytest.mark.parametrize("norm", ["batch, no weights", "layer", "instance"])
def test_and_one_that_does_so_by_a_transform(norm: str, engine: Any) -> None:
    case = Case(NORMS[norm], "transform")
    assert_close(case.learned(engine), case.truth())


def test_the_compiled_engine_leaves_it_to_double_backward() -> None:
    case = Case(NORMS["layer"])
    with pytest.warns(core.CompileFallback, match="takes a derivative itself"):
        value = case.learned("compiled")
    assert_close(value, case.truth())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_values_statistics_and_dtypes_are_those_of_torch(norm: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ours = NORMS[norm]().to(dtype)
    for p in ours.parameters():
        nn.init.normal_(p)
    theirs = copy.deepcopy(ours)
    x = torch.randn(6, 8).to(dtype)
    with _PlainNorms():
        actual = ours(x)
    expected = theirs(x)
    assert actual.dtype is expected.dtype
    some = 1e-12 if dtype is torch.float64 else 0.1
    torch.testing.assert_close(actual, expected, rtol=some, atol=some)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_what_torch_refuses_stays_refused() -> None:
    with _PlainNorms(), pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm1d(4)(torch.randn(1, 4))


class Refuses(torch.autograd.Function):
    """As batch norm of torch 2.14 and later: the backward of its backward has no derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, backward: bool = False) -> Tensor:
        ctx.within = backward
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        if not ctx.within:
            return Refuses.apply(g, True), None
        words = b"batch_norm does not support 3rd+ order derivatives."
        return torch._C._functions.DelayedError(words, 1)(g), None


def test_a_third_derivative_that_torch_has_not_is_named() -> None:
    case = Case(lambda: By(lambda x: Refuses.apply(x)))
    with pytest.raises(ValueError, match=r"batch_norm .*no third derivative.*finite_difference"):
        case.learned("auto")
    assert_close(case.learned("finite_difference"), case.truth())

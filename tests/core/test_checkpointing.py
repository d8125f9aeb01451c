"""Activation checkpointing of the model: the derivative is the same, or the refusal is clear."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from core.meta.engines import compiled
from core.meta.engines.compiled import CompileFallback
from core.meta.engines.hand_derived import substitution
from core.meta.gradient import hypergradient
from core.meta.reading import Reading
from core.metamixup import metamixup_step


def carries_tangents() -> bool:
    """Says whether a checkpoint does; those of torch 2.6 and 2.7 do not, and say so by name."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, of what it loads here
        dual = forward_ad.make_dual(torch.ones(2), torch.ones(2))
        try:
            checkpoint(torch.sin, dual, use_reentrant=False)
        except NotImplementedError:
            return False
    return True


EXACT = ("double_backward", *(["forward_reverse"] if carries_tangents() else []))
APPROXIMATE = ("finite_difference",)
KINDS = ("blocks", "sequential", "nested", "formula")


@pytest.fixture(autouse=True)
def _no_compiling(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Checkpointed regions are no part of a `torch.func` graph: always another engine."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CompileFallback)
        yield


class Block(nn.Module):
    """conv, BatchNorm, tanh, dropout."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.drop(torch.tanh(self.norm(self.conv(x))))
        return out


class Net(nn.Module):
    """Three blocks, mean over pixels, a last layer written as a formula of bare parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(2, 4), Block(4, 4), Block(4, 6))
        self.weight = nn.Parameter(torch.randn(6, 3) / 2)
        self.bias = nn.Parameter(torch.randn(3) / 2)
        self.kind = "none"
        self.runs = 0

    def head(self, h: Tensor) -> Tensor:
        self.runs += 1
        return h.mean((2, 3)) @ self.weight + self.bias

    def forward(self, x: Tensor) -> Tensor:
        kind, h = self.kind, x
        if kind == "sequential":
            return self.head(checkpoint_sequential(self.blocks, 2, h, use_reentrant=False))
        if kind == "nested":
            both: Callable[[Tensor], Tensor] = lambda h: self.blocks[1](again(self.blocks[0], h))  # noqa: E731
            return self.head(self.blocks[2](again(both, h)))
        for block in self.blocks:
            if kind == "reentrant":
                h = checkpoint(block, h, use_reentrant=True)
            else:
                h = again(block, h) if kind == "blocks" else block(h)
        return again(self.head, h) if kind == "formula" else self.head(h)


def again(part: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    out: Tensor = checkpoint(part, h, use_reentrant=False)
    return out


def make(dtype: torch.dtype = torch.float64) -> SimpleNamespace:
    net = Net().to(dtype)
    x, y = torch.randn(10, 2, 5, 5, dtype=dtype), torch.randint(3, (10,))
    return SimpleNamespace(
        net=net,
        data={
            "batch": (x[:6], y[:6]),
            "val_batch": (x[6:], y[6:]),
            "lam": torch.rand(6, dtype=dtype),
            "partner": torch.arange(6).roll(1),
        },
    )


def with_and_without(case: SimpleNamespace, kind: str, **options: Any) -> tuple[Tensor, Tensor]:
    case.net.kind = "none"
    truth = hypergradient(case.net, **case.data, **{**options, "engine": "unroll"})
    case.net.kind = kind
    value = hypergradient(case.net, **case.data, **options)
    assert float(truth.norm()) > 1e-6
    return value, truth


def off(value: Tensor, truth: Tensor) -> float:
    return float((value - truth).norm() / truth.norm())


@pytest.mark.parametrize(
    ("engine", "kind", "training"),
    [
        *product((*EXACT, *APPROXIMATE), KINDS, (True,)),
        *product((*EXACT, *APPROXIMATE), ("nested",), (False,)),
        ("compiled", "nested", True),  # others would pay for the same failing trace
    ],
)
def test_the_same_with_and_without_and_nothing_is_touched(
    engine: str, kind: str, training: bool, toy: SimpleNamespace
) -> None:
    case = make()
    case.net.train(training)
    before, stream = toy.snapshot(case.net), torch.get_rng_state()
    value, truth = with_and_without(case, kind, engine=engine, lr=0.5)
    assert toy.identical(before, toy.snapshot(case.net))
    assert torch.equal(torch.get_rng_state(), stream)
    assert off(value, truth) < (1e-6 if engine in APPROXIMATE else 1e-10)


@pytest.mark.parametrize("engine", EXACT)
def test_the_same_through_an_optimizer_and_the_last_block(engine: str) -> None:
    case = make()
    optimizer = torch.optim.AdamW(case.net.parameters(), lr=0.03, eps=1e-3)
    value, truth = with_and_without(case, "blocks", engine=engine, optimizer=optimizer)
    assert off(value, truth) < 1e-10
    value, truth = with_and_without(case, "blocks", engine=engine, lr=0.5, last_blocks=2)
    assert off(value, truth) < 1e-10


def test_the_validation_pass_runs_again_at_the_stepped_parameters() -> None:
    """At a rate so high that θ and θ′ are far apart, and through a region that has no module."""
    case = make()
    seen: list[Tensor] = []
    head = case.net.head

    def watched(h: Tensor) -> Tensor:
        seen.append(case.net.weight.detach().clone())
        logits: Tensor = head(h)
        return logits

    case.net.head = watched
    value, truth = with_and_without(case, "formula", engine="double_backward", lr=5.0)
    assert off(value, truth) < 1e-10
    theta, prime = seen[0], seen[1]  # of the unroll
    assert float((theta - prime).abs().max()) > 0.1
    # Forward and backward pass at θ, the same at θ′, the second backward pass at θ.
    where = ["θ" if torch.equal(w, theta) else "θ′" for w in seen[2:]]
    assert where == ["θ", "θ", "θ′", "θ′", "θ"]
    assert all(torch.allclose(w, prime, rtol=1e-12) for w in seen[4:6])


def test_a_whole_step_is_the_same() -> None:
    states = []
    for kind in ("none", "blocks"):
        torch.manual_seed(3)
        case = make()
        case.net.kind = kind
        optimizer = torch.optim.SGD(case.net.parameters(), lr=0.1, momentum=0.9)
        for _ in range(2):
            metamixup_step(
                case.net, optimizer, case.data["batch"], case.data["val_batch"],
                reading=Reading(meta_steps=2), clip_grad_norm=1.0,
            )  # fmt: skip
        states.append({**dict(case.net.named_parameters()), "rng": torch.get_rng_state()})
        # A checkpointed BatchNorm moves its running statistics twice, in the real step, as ever.
    assert torch.equal(states[0].pop("rng"), states[1].pop("rng"))
    torch.testing.assert_close(states[0], states[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_unroll_refuses(kind: str, toy: SimpleNamespace) -> None:
    """Also a region without modules, where only the hooks tell."""
    case = make()
    case.net.kind = kind
    before, stream = toy.snapshot(case.net), torch.get_rng_state()
    with pytest.raises(ValueError, match=r'"unroll" cannot recompute checkpointed.*engine="auto"'):
        hypergradient(case.net, **case.data, engine="unroll", lr=0.5)
    assert toy.identical(before, toy.snapshot(case.net))
    assert torch.equal(torch.get_rng_state(), stream)
    case.net.kind = "none"  # and hooks work as before
    with save_on_cpu():
        case.net(case.data["batch"][0]).sum().backward()


def test_unroll_raises_what_is_wrong_otherwise() -> None:
    case = make()
    x, y = case.data["batch"]
    case.data["batch"] = x[:, [0, 0, 0]], y
    with pytest.raises(RuntimeError, match=r"expected input\[6, 3, 5, 5\] to have 2 channels"):
        hypergradient(case.net, **case.data, engine="unroll", lr=0.5)


@pytest.mark.parametrize("engine", ["unroll", "compiled", *EXACT, *APPROXIMATE])
def test_the_reentrant_kind_is_refused_by_torch(engine: Any) -> None:
    """The compiler of torch 2.6 and 2.7 follows it instead."""
    case, refusal = make(), ""
    value = truth = hypergradient(case.net, **case.data, engine="double_backward", lr=0.5)
    case.net.kind = "reentrant"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad=True")
        try:
            value = hypergradient(case.net, **case.data, engine=engine, lr=0.5)
        except RuntimeError as error:
            refusal = str(error)
    named = re.search(r"use_reentrant=True.*set use_reentrant=False", refusal)
    assert named or (engine == "compiled" and not refusal)
    assert off(value, truth) < 1e-10


class Whole(torch.nn.Linear):
    """All of the network under the reentrant kind, which hides its parameters from the graph."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = checkpoint(super().forward, x, use_reentrant=True)
        return out


# Of the compiled engine nothing is promised here: the compilers of some releases follow it.
@pytest.mark.parametrize("engine", ["unroll", *EXACT])
def test_a_network_that_is_wholly_under_the_reentrant_kind_is_refused_by_name(engine: Any) -> None:
    batch = torch.randn(5, 4), torch.arange(5) % 3
    lam, partner = torch.full((5,), 0.4), torch.arange(5).roll(1)
    with pytest.raises(ValueError, match=r"use_reentrant=True.*and use_reentrant=False"):
        hypergradient(Whole(4, 3), batch, batch, lam, partner, engine=engine, lr=0.5)


@pytest.mark.parametrize("engine", ["compiled", *EXACT])
def test_other_saved_tensor_hooks(engine: Any) -> None:
    """The user's own, around the whole call."""
    case = make()
    truth = hypergradient(case.net, **case.data, engine="unroll", lr=0.5)
    with save_on_cpu():
        value = hypergradient(case.net, **case.data, engine=engine, lr=0.5)
    assert off(value, truth) < 1e-10


def test_beside_a_checkpoint_our_functions_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpointed block takes torch's convolution, the others ours."""
    calls: list[int] = []
    ours = substitution.Convolution.apply

    def apply(x: Tensor, *rest: Any) -> Any:
        calls.append(x.shape[1])
        return ours(x, *rest)

    monkeypatch.setattr(substitution.Convolution, "apply", apply)
    case = make()
    case.net.kind = "nested"
    hypergradient(case.net, **case.data, lr=0.5)
    assert calls == [4]
    case.net.kind = "none"
    hypergradient(case.net, **case.data, lr=0.5)
    assert calls == [4, 2, 4, 4]

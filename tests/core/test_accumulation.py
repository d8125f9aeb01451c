"""Several micro-batches to one optimizer step, by the mean of their gradients."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, optim

from core.metamixup import metamixup_step
from core.mixing.real_step import StepResult

COUNT = 3


def by_hand(net: Any, batch: Any, result: StepResult, toy: SimpleNamespace) -> list[Tensor]:
    lam, j = result.lam[:, None], result.partner
    x, y = batch[0], toy.one_hot(batch[1], result.lam.dtype)
    logits = net(lam * x + (1 - lam) * x[j])
    loss = F.cross_entropy(logits, lam * y + (1 - lam) * y[j])
    torch.testing.assert_close(loss.detach(), result.loss)
    return list(torch.autograd.grad(loss, list(net.parameters())))


@pytest.mark.parametrize("limit", [None, 0.05, 1e6])
def test_mean_of_the_micro_batches_by_hand(limit: float | None, toy: SimpleNamespace) -> None:
    net = toy.make_net()
    optimizer = optim.SGD(net.parameters(), lr=0.5)
    for p in net.parameters():
        p.grad = torch.full_like(p, 100.0)  # of an earlier step, zeroed at micro-batch 0
    start = [p.detach().clone() for p in net.parameters()]
    total = [torch.zeros_like(p) for p in start]
    for i in range(COUNT):
        data = toy.make_data(5 + i, 4, seed=i)
        twin = toy.make_net()
        result = metamixup_step(
            net, optimizer, data.batch, data.val_batch, clip_grad_norm=limit, micro_batch=(i, COUNT)
        )
        for t, g in zip(total, by_hand(twin, data.batch, result, toy), strict=True):
            t += g / COUNT
        if i < COUNT - 1:
            assert toy.identical([p.detach() for p in net.parameters()], start)
            for p, t in zip(net.parameters(), total, strict=True):
                torch.testing.assert_close(p.grad, t, rtol=1e-10, atol=1e-12)
    norm = math.sqrt(sum(float((t**2).sum()) for t in total))
    factor = 1.0 if limit is None else min(1.0, limit / norm)
    assert (factor < 1) == (limit == 0.05)
    for p, before, t in zip(net.parameters(), start, total, strict=True):
        torch.testing.assert_close(p.detach(), before - 0.5 * factor * t, rtol=1e-5, atol=1e-9)


def test_every_micro_batch_learns_at_the_same_parameters(toy: SimpleNamespace) -> None:
    """And one given twice learns the same."""
    net, data = toy.make_net(), toy.make_data()
    optimizer = optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    results = [
        metamixup_step(net, optimizer, *[data.batch, data.val_batch], micro_batch=(i, 2),
                       lam=data.lam, partner=data.partner)
        for i in range(2)
    ]  # fmt: skip
    assert toy.identical(vars(results[0]), vars(results[1]))


class Scaler(torch.amp.GradScaler):
    """Notes what is asked of it."""

    def __init__(self, scale: float) -> None:
        super().__init__("cpu", init_scale=scale)
        self.calls: list[str] = []

    def unscale_(self, optimizer: optim.Optimizer) -> None:
        self.calls.append("unscale")
        super().unscale_(optimizer)

    def step(self, optimizer: optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        self.calls.append("step")
        return super().step(optimizer, *args, **kwargs)

    def update(self, new_scale: Any = None) -> None:
        self.calls.append("update")
        super().update(new_scale)


def accumulate(scaler: Scaler | None, toy: SimpleNamespace, spoilt: int | None = None) -> Any:
    torch.manual_seed(4)
    net = toy.make_net(dtype=torch.float32)
    optimizer = optim.SGD(net.parameters(), lr=0.5)
    calls = []
    for i in range(COUNT):
        data = toy.make_data(seed=i, dtype=torch.float32)
        if i == spoilt:
            data.batch = data.batch[0] * float("inf"), data.batch[1]
        metamixup_step(
            net, optimizer, data.batch, data.val_batch, scaler=scaler, clip_grad_norm=0.1,
            micro_batch=(i, COUNT),
        )  # fmt: skip
        calls.append(list(scaler.calls) if scaler is not None else [])
    return SimpleNamespace(state=toy.snapshot(net)["parameters"], calls=calls)


def test_a_grad_scaler_acts_once_at_the_end(toy: SimpleNamespace) -> None:
    scaler = Scaler(2.0**6)
    scaled, plain = accumulate(scaler, toy), accumulate(None, toy)
    assert scaled.calls == [[], [], ["unscale", "step", "update"]]
    torch.testing.assert_close(scaled.state, plain.state)
    assert scaler.get_scale() == 2.0**6


@pytest.mark.parametrize("spoilt", range(COUNT))
def test_overflow_in_any_micro_batch_skips_the_step(spoilt: int, toy: SimpleNamespace) -> None:
    scaler = Scaler(2.0**6)
    after = accumulate(scaler, toy, spoilt).state
    assert toy.identical(after, toy.snapshot(toy.make_net(dtype=torch.float32))["parameters"])
    assert scaler.get_scale() == 2.0**5


@pytest.mark.parametrize("micro_batch", [(1, 1), (-1, 2), (2, 2), (0, 0), 2])
def test_micro_batches_that_are_none(micro_batch: Any, toy: SimpleNamespace) -> None:
    net, data = toy.make_net(norm=True), toy.make_data()
    optimizer = optim.SGD(net.parameters(), lr=0.5)
    before, stream = toy.snapshot(net, optimizer), torch.get_rng_state()
    with pytest.raises(ValueError, match=r"micro_batch must be \(i, k\) with 0 <= i < k, got [(2]"):
        metamixup_step(net, optimizer, data.batch, data.val_batch, micro_batch=micro_batch)
    for norm in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"clip_grad_norm must be above 0, got {norm}"):
            metamixup_step(net, optimizer, data.batch, data.val_batch, clip_grad_norm=norm)
    assert toy.identical(before, toy.snapshot(net, optimizer))
    assert torch.equal(stream, torch.get_rng_state())  # nor was anything learned before


def test_lbfgs_cannot_accumulate(toy: SimpleNamespace) -> None:
    net, data = toy.make_net(norm=True), toy.make_data()
    optimizer = optim.LBFGS(net.parameters())
    before = toy.snapshot(net)
    for i in range(2):
        with pytest.raises(ValueError, match=r"LBFGS.*over 2 micro-batches; leave `mic"):
            metamixup_step(net, optimizer, data.batch, data.val_batch, micro_batch=(i, 2))
    assert toy.identical(before, toy.snapshot(net))

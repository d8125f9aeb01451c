"""The derivative over a whole horizon against differences, and what carries it."""

from __future__ import annotations

import copy
import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from core.mixing.real_step import mixed_step
from core.policies.carried_beta import CarriedBeta
from core.policies.learned_beta import LearnedBeta
from core.testing import POLICY_CHECKS
from core.testing.small_network import CLASSES
from tests.support.second_derivatives import Doubled

STEPS = 5


class SitsOut(nn.Module):
    """Its last layer sits out half of the steps, as LayerDrop has it: it has no gradient then."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net, self.norm = net, net.norm
        self.last = nn.Linear(CLASSES, CLASSES).double()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        drawn = not self.training or bool(torch.rand(()) < 0.5)
        return logits + torch.tanh(self.last(logits)) if drawn else logits


class Then(nn.Module):
    """Something more is done with the logits, which torch differentiates in its own ways."""

    def __init__(self, net: Any, what: str) -> None:
        super().__init__()
        self.net, self.norm, self.what = net, net.norm, what
        layers = [nn.Linear(CLASSES, 4), nn.SiLU(), nn.GroupNorm(2, 4), nn.Linear(4, CLASSES)]
        self.last = nn.Sequential(*layers).double()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        if self.what == "silu and group norm":
            return logits + self.last(logits)
        if self.what == "solve":
            matrix = 3 * torch.eye(CLASSES).double() + self.last[0].weight[:CLASSES]
            return torch.linalg.solve(matrix, logits.T).T
        if self.what == "attention":
            rows = logits[None, None]
            return logits + nn.functional.scaled_dot_product_attention(rows, rows, rows)[0, 0]
        with torch.enable_grad():  # a derivative inside
            at = logits if logits.requires_grad else logits.detach().requires_grad_()
            energy = torch.tanh(self.last[0](at)).square().sum()
            (slope,) = torch.autograd.grad(energy, at, create_graph=True)
        return logits + slope


def told(make: Any = CarriedBeta, **settings: Any) -> Any:
    policy = make(**{"begin": 0.0, "every": STEPS, "average_over": 1, **settings})
    policy.at(0, 40)
    return policy


def trained(
    toy: SimpleNamespace,
    policy: Any,
    steps: int,
    make: Any,
    rate: Any = None,
    wrap: Any = None,
) -> tuple[Any, optim.Optimizer]:
    """Returns a network after so many steps, each on a batch and with noise of its own, and its
    optimizer; `rate` is that of each step."""
    net = toy.make_net(norm=True, drop=True, tied=True)
    if wrap is not None:
        torch.manual_seed(3)
        net = wrap(net)
    optimizer = make(net.parameters())
    toy.warm_up(net, optimizer)
    torch.manual_seed(4)  # dropout
    for t in range(steps):
        if rate is not None:
            optimizer.param_groups[0]["lr"] = rate(t)
        data = toy.make_data(9, 5, seed=50 + t)
        generator = torch.Generator().manual_seed(t)
        given = policy(net, optimizer, data.batch, data.val_batch, generator=generator)
        mixed_step(net, optimizer, data.batch, given)
    return net.eval(), optimizer


@pytest.mark.parametrize(
    ("make", "wrap"),
    [
        (partial(optim.SGD, lr=0.2), None),
        (partial(optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01), None),
        (partial(optim.SGD, lr=0.1, momentum=0.8, nesterov=True), None),
        (partial(optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01), SitsOut),
        *[
            (partial(optim.SGD, lr=0.1, momentum=0.9), partial(Then, what=what))
            for what in ("silu and group norm", "solve", "attention", "a derivative inside")
        ],
    ],
)
def test_the_whole_horizon_against_differences(
    toy: SimpleNamespace, monkeypatch: Any, make: Any, wrap: Any
) -> None:
    """After five steps with α e^±h throughout and the same noise, in float64."""
    alpha, h, data = 0.6, 1e-5, toy.make_data(9, 5, seed=99)
    policy = told(alpha=alpha, carry=1.0, reach=0.0)
    net, optimizer = trained(toy, policy, STEPS, make, wrap=wrap)
    caught: list[float] = []
    original = policy._tangent.derivative

    def derivative(problem: Any) -> Any:
        value = original(problem)
        caught.append(value[0])
        return value

    monkeypatch.setattr(policy._tangent, "derivative", derivative)
    policy(net, optimizer, data.batch, data.val_batch, generator=torch.Generator())
    statistics = dict(net.norm.named_buffers())  # constants to the derivative

    def after(log_alpha: float) -> float:
        constant = told(LearnedBeta, alpha=math.exp(log_alpha), begin=1.0)
        end, _ = trained(toy, constant, STEPS, make, wrap=wrap)
        end.norm.load_state_dict({**end.norm.state_dict(), **statistics})
        x, y = data.val_batch
        with torch.no_grad():
            return float(nn.functional.cross_entropy(end(x), y))

    expected = (after(math.log(alpha) + h) - after(math.log(alpha) - h)) / (2 * h)
    assert caught == [pytest.approx(expected, rel=1e-4)]
    assert abs(expected) > 1e-6


def test_after_a_part_is_frozen_the_horizon_begins_there(
    toy: SimpleNamespace, monkeypatch: Any
) -> None:
    """What α did before is known of no weight then: differences begin at the same place."""
    alpha, h, make = 0.6, 1e-5, partial(optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)
    policy, net = told(alpha=alpha, carry=1.0, reach=0.0), toy.make_net(tied=True)
    optimizer, x_val, y_val = make(net.parameters()), *toy.make_data(9, 5, seed=99).val_batch

    def go_on(policy: Any, net: Any, optimizer: Any, steps: range) -> None:
        for t in steps:
            data, generator = toy.make_data(9, 5, seed=50 + t), torch.Generator().manual_seed(t)
            given = policy(net, optimizer, data.batch, (x_val, y_val), generator=generator)
            mixed_step(net, optimizer, data.batch, given)

    go_on(policy, net, optimizer, range(3))
    net.inp.weight.requires_grad_(False)
    start, momenta = copy.deepcopy(net), copy.deepcopy(optimizer.state_dict())
    go_on(policy, net, optimizer, range(3, STEPS))
    caught: list[float] = []
    original = policy._tangent.derivative
    monkeypatch.setattr(
        policy._tangent, "derivative", lambda p: caught.append(original(p)[0]) or original(p)
    )
    policy(net, optimizer, toy.make_data(9, 5).batch, (x_val, y_val))

    def after(log_alpha: float) -> float:
        end = copy.deepcopy(start)
        again = make(end.parameters())
        again.load_state_dict(copy.deepcopy(momenta))  # it keeps the tensors that it is given
        constant = told(LearnedBeta, alpha=math.exp(log_alpha), begin=1.0)
        go_on(constant, end, again, range(3, STEPS))
        with torch.no_grad():
            return float(nn.functional.cross_entropy(end(x_val), y_val))

    expected = (after(math.log(alpha) + h) - after(math.log(alpha) - h)) / (2 * h)
    assert caught == [pytest.approx(expected, rel=1e-4)]
    assert abs(expected) > 1e-6


def test_what_was_long_ago_counts_less(toy: SimpleNamespace) -> None:
    """At a rate so small that no curvature counts, ż is the sum of carry^t of each step's."""
    net, data = nn.Linear(4, 3).double(), toy.make_data(9, 5)
    optimizer = optim.SGD(net.parameters(), lr=1e-9)

    def tangent(carry: float, steps: int) -> Any:
        policy = told(carry=carry, reach=0.0)
        for _ in range(steps):
            generator = torch.Generator().manual_seed(1)
            policy(net, optimizer, data.batch, data.val_batch, generator=generator)
        return policy.state_dict()["tangent"]["theta"]["weight"]

    one = tangent(1.0, 1)
    torch.testing.assert_close(tangent(1.0, 3), 3 * one, rtol=1e-6, atol=0)
    torch.testing.assert_close(tangent(0.5, 3), (0.5 + 0.25 + 0.125) * one, rtol=1e-6, atol=0)


@pytest.mark.parametrize("check", POLICY_CHECKS, ids=lambda check: check.__name__)
def test_it_keeps_the_contract(check: Any) -> None:
    check(partial(copy.deepcopy, told(carry=0.9, every=2)))


def test_it_follows_what_a_training_librarys_wrapper_holds(toy: SimpleNamespace) -> None:
    """As Lightning's: a subclass made on the fly, the torch optimizer its attribute."""

    def wrapped(parameters: Any) -> optim.SGD:
        inner = optim.SGD(parameters, lr=0.1, momentum=0.9)
        wrapper = object.__new__(type("WrappedSGD", (type("Wrapper", (), {}), optim.SGD), {}))
        wrapper.__dict__ = {**inner.__dict__, "optimizer": inner}
        return wrapper

    ends = []
    for make in (partial(optim.SGD, lr=0.1, momentum=0.9), wrapped):
        policy = told(carry=0.9, reach=2.0)
        trained(toy, policy, STEPS, make)
        ends.append(policy.present_alpha)
    assert ends[0] == ends[1] != told().present_alpha


class Lars(optim.SGD):
    """It may step otherwise than SGD."""


def test_other_optimizers_are_refused_by_name(toy: SimpleNamespace) -> None:
    net, data = toy.make_net(), toy.make_data(9, 5)
    for optimizer, message in [
        (
            optim.Adam(net.parameters()),
            r"carry follows steps of SGD, got Adam; use core\.LearnedBeta",
        ),
        (optim.SGD(net.parameters(), lr=1, momentum=0.9, dampening=0.1), "SGD without dampening"),
        (Lars(net.parameters(), lr=1), "carry follows steps of SGD, got Lars"),
    ]:
        # At the first step, long before it learns.
        with pytest.raises(ValueError, match=message):
            told(begin=0.9)(net, optimizer, data.batch)
    hooked = optim.SGD(net.parameters(), lr=1)
    hooked.register_step_post_hook(lambda *_: None)
    with pytest.raises(ValueError, match="SGD has hooks around its step"):
        told(begin=0.9)(net, hooked, data.batch)
    with pytest.raises(ValueError, match=r"carry must lie in \(0, 1\], got 1.5"):
        CarriedBeta(carry=1.5)


def test_what_has_no_forward_derivative_is_refused_with_the_way_out(toy: SimpleNamespace) -> None:
    data = toy.make_data(9, 5)
    net = toy.make_net()
    net.register_forward_hook(lambda module, x, logits: Doubled.apply(logits))
    policy, optimizer = told(every=1, carry=0.9), optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"has no forward derivative .*; use core\.LearnedBeta"):
        policy(net, optimizer, data.batch, data.val_batch)


def test_a_loss_scale_is_refused(toy: SimpleNamespace, monkeypatch: Any) -> None:
    net, data = toy.make_net(), toy.make_data(9, 5)
    monkeypatch.setattr("core.meta.carried.loss_scaler", lambda: torch.amp.GradScaler("cpu"))
    with pytest.raises(ValueError, match=r"choose bf16, or use core\.LearnedBeta"):
        told(begin=0.9)(net, optim.SGD(net.parameters(), lr=1), data.batch)


@pytest.mark.parametrize("where", ["theta", "momentum"])
def test_what_overflows_is_given_up_and_alpha_goes_on(toy: SimpleNamespace, where: str) -> None:
    net, data = toy.make_net(), toy.make_data(9, 5)
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    policy, alphas = told(carry=0.9, every=1), []
    for t in range(5):
        generator = torch.Generator().manual_seed(t)
        policy(net, optimizer, data.batch, data.val_batch, generator=generator)
        alphas.append(policy.present_alpha)
        if t == 1:
            for tangent in policy.state_dict()["tangent"][where].values():
                tangent.fill_(math.inf)
    tangents = policy.state_dict()["tangent"]
    assert all(bool(t.isfinite().all()) for part in tangents.values() for t in part.values())
    assert alphas[3] != alphas[4]

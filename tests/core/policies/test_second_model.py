"""A policy object that a second model is trained with: what it kept of the first one's weights."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn, optim

import core
from core.mixing.real_step import mixed_step
from core.policies import CarriedBeta, EvolvedBeta, Learned, LearnedBeta, PersistentScores
from core.testing.small_network import CLASSES, FEATURES

FIRST, SECOND = 3, 4
"""Steps of the two trainings. The second is more than one unroll of `EvolvedBeta`."""


def steps(policy: Any, net: nn.Module, toy: SimpleNamespace, numbers: range) -> list[Any]:
    """Trains for these steps, and returns what the policy gave at each."""
    optimizer = optim.SGD(net.parameters(), lr=0.2)
    given = []
    for t in numbers:
        data, stream = toy.make_data(seed=t), torch.Generator().manual_seed(t)
        n = len(data.batch[0])
        step = policy(
            net, optimizer, data.batch, data.val_batch, generator=stream, indices=torch.arange(n)
        )
        mixed_step(net, optimizer, data.batch, step)
        given.append(step)
    return given


def keeping(policy: type[Any]) -> Any:
    return policy(validation_gradient=core.ValidationGradient(8))


def schedule(policy: type[LearnedBeta], **settings: Any) -> LearnedBeta:
    made = policy(begin=0.0, every=2, average_over=2, **settings)
    made.at(0, 20)
    return made


def without_v(state: dict[str, Any]) -> dict[str, Any]:
    nothing = core.ValidationGradient().state_dict()
    return {**state, "validation_gradient": nothing} if "validation_gradient" in state else nothing


def without_tangent(state: dict[str, Any]) -> dict[str, Any]:
    return without_v(state) | {"tangent": {"theta": {}, "momentum": {}}}


def without_particles(state: dict[str, Any]) -> dict[str, Any]:
    none = [0.0, 0.0]
    return without_v(state) | {
        "particles": [], "travelled": none, "losses": none, "judged": 0, "ahead": 0.0,
    }  # fmt: skip


POLICIES: dict[str, tuple[Callable[[], Any], Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "Learned": (lambda: keeping(Learned), without_v),
    "PersistentScores": (lambda: keeping(PersistentScores), without_v),
    "LearnedBeta": (lambda: schedule(LearnedBeta), without_v),
    "CarriedBeta": (lambda: schedule(CarriedBeta), without_tangent),
    "EvolvedBeta": (lambda: schedule(EvolvedBeta), without_particles),
}


def make_second(kind: str, toy: SimpleNamespace) -> nn.Module:
    if kind == "other shapes":
        torch.manual_seed(5)
        layers = {"inp": nn.Linear(FEATURES, 5), "hidden": nn.Linear(5, 5), "act": nn.Tanh()}
        return nn.Sequential(OrderedDict(layers, out=nn.Linear(5, CLASSES))).double()
    net: nn.Module = toy.make_net()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(0.5)
    return net


@pytest.mark.parametrize("kind", ["other shapes", "same shapes"])
@pytest.mark.parametrize("name", POLICIES)
def test_nothing_of_the_first_models_weights_reaches_the_second(
    name: str, kind: str, toy: SimpleNamespace
) -> None:
    """The same as with a state out of which all of that was taken by hand."""
    make, without = POLICIES[name]
    policy, by_hand = make(), make()
    steps(policy, toy.make_net(), toy, range(FIRST))
    by_hand.load_state_dict(without(copy.deepcopy(policy.state_dict())))
    second = make_second(kind, toy)
    numbers = range(FIRST, FIRST + SECOND)
    expected = steps(by_hand, copy.deepcopy(second), toy, numbers)
    for ours, theirs in zip(steps(policy, second, toy, numbers), expected, strict=True):
        assert torch.equal(ours.lam, theirs.lam)
        assert ours.extra_samples == theirs.extra_samples
        for a, b in (
            (ours.hypergradient, theirs.hypergradient),
            (ours.meta_loss, theirs.meta_loss),
        ):
            assert (a is None) == (b is None)
            assert a is None or torch.equal(a, b)


@pytest.mark.parametrize("name", POLICIES)
def test_what_it_kept_goes_on_with_the_same_model_under_a_wrapper_or_in_a_copy_of_both(
    name: str, toy: SimpleNamespace
) -> None:
    make, _ = POLICIES[name]
    results = []
    for kind in ("plain", "wrapped", "copied"):
        policy, net = make(), toy.make_net()
        steps(policy, net, toy, range(FIRST))
        if kind == "copied":
            policy, net = copy.deepcopy((policy, net))
        if kind == "wrapped":
            net = core.with_logits(net, lambda logits: logits)
        given = steps(policy, net, toy, range(FIRST, FIRST + SECOND))
        results.append(torch.stack([step.lam for step in given]))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("policy", [LearnedBeta, CarriedBeta, EvolvedBeta])
def test_a_training_that_goes_back_before_learning_began_is_refused(
    policy: type[LearnedBeta], toy: SimpleNamespace
) -> None:
    made = policy(begin=0.5, every=2, average_over=1)
    made.at(0, 4)
    before = made.state_dict()
    steps(made, toy.make_net(), toy, range(3))
    made.at(2, 4)  # learning began there
    with pytest.raises(
        ValueError, match=rf"step 1 lies before step 2, .*{policy.__name__} belongs"
    ):
        made.at(1, 4)
    made.load_state_dict(before)
    made.at(1, 4)


def test_a_training_that_ended_before_learning_began_leaves_nothing_to_the_next(
    toy: SimpleNamespace,
) -> None:
    """Learning begins by itself when three quarters of all that the rates add up to are over."""
    used, new = LearnedBeta(every=1, average_over=1), LearnedBeta(every=1, average_over=1)
    used.at(0, 40)
    steps(used, toy.make_net(), toy, range(20))
    begun = []
    for policy in (used, new):
        policy.at(0, 8)
        given = steps(policy, toy.make_net(), toy, range(8))
        begun.append([step.change is not None for step in given])
    assert begun[0] == begun[1] == [False] * 6 + [True] * 2

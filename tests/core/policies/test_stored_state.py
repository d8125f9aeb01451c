"""A state loaded into a policy that it is not of is refused, and nothing of it is taken up."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import core
from core.policies import CarriedBeta, EvolvedBeta, FrozenSchedule, Policy
from core.testing.small_network import identical

KINDS: dict[str, Callable[[], Policy]] = {
    "Beta": lambda: core.Beta(1.0),
    "FrozenSchedule": lambda: FrozenSchedule([(0.0, 1.0)]),
    "LearnedBeta": core.LearnedBeta,
    "CarriedBeta": CarriedBeta,
    "EvolvedBeta": EvolvedBeta,
    "Learned": lambda: core.Learned(validation_gradient=core.ValidationGradient(2)),
    "Amortised": core.Amortised,
    "PersistentScores": core.PersistentScores,
    "PersistentWeights": core.PersistentWeights,
    "MetaWeightNet": core.MetaWeightNet,
}

MEANINGFUL = {("Beta", "Learned")}
"""A state with nothing in it is also that of a `Learned` that keeps no validation gradient."""


@pytest.mark.parametrize("giver", KINDS)
@pytest.mark.parametrize("taker", KINDS)
def test_a_policy_takes_the_state_of_its_own_class_alone(giver: str, taker: str) -> None:
    policy, state = KINDS[taker](), KINDS[giver]().state_dict()
    if giver == taker or (giver, taker) in MEANINGFUL:
        policy.load_state_dict(state)
        return
    before = copy.deepcopy(policy.state_dict())
    with pytest.raises(ValueError, match="the stored state is that of another policy") as refused:
        policy.load_state_dict(state)
    message = str(refused.value)
    assert f"a {taker} has" in message
    assert all(name in message for name in state)
    assert "policy of the class and the settings of the one that gave it" in message
    assert identical(policy.state_dict(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("first", "second"), [("cpu", "cuda"), ("cuda", "cpu")])
@pytest.mark.parametrize("kind", KINDS)
def test_what_one_device_learned_goes_on_on_another(kind: str, first: str, second: str) -> None:
    policy, size = KINDS[kind](), 8
    for device in (first, second):
        model, optimizer, *batches = core.testing.toy_problem()
        model.to(device)
        batch, val_batch = ((x.to(device), y.to(device)) for x, y in batches)
        state = copy.deepcopy(policy.state_dict())
        policy = KINDS[kind]()
        policy.load_state_dict(state)
        policy.at(90, 100)
        for _ in range(9):
            indices = torch.arange(size, device=device)
            given = policy(model, optimizer, batch, val_batch, indices=indices)
            core.mixed_step(model, optimizer, batch, given)


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_device_is_that_of_nothing_in_a_step(kind: str) -> None:
    """Whoever builds models on one device by default may train one on another."""
    policy, (model, optimizer, batch, val_batch) = KINDS[kind](), core.testing.toy_problem()
    policy.at(90, 100)
    indices = torch.arange(len(batch[0]))
    with torch.device("meta"):
        for _ in range(9):
            given = policy(model, optimizer, batch, val_batch, indices=indices)
            core.mixed_step(model, optimizer, batch, given)
        policy.metrics()
    assert given.lam.device.type == "cpu"


def test_a_path_of_alpha_is_not_taken_for_the_other() -> None:
    policy, state = EvolvedBeta(path="stop"), EvolvedBeta(path="ends").state_dict()
    before = copy.deepcopy(policy.state_dict())
    with pytest.raises(ValueError, match='path "ends", and this EvolvedBeta has path "stop"'):
        policy.load_state_dict(state)
    assert identical(policy.state_dict(), before)
    del state["path"]  # as states of earlier versions
    policy.load_state_dict(state)
    assert policy.path == "stop"


@pytest.mark.parametrize("kept", [None, core.ValidationGradient(2)])
def test_amortised_is_as_it_was_where_the_policy_inside_refuses(kept: Any) -> None:
    policy = core.Amortised(core.Learned(validation_gradient=kept))
    state = policy.state_dict() | {"steps": 5, "learned": core.LearnedBeta().state_dict()}
    with pytest.raises(ValueError, match="a Learned has age, averaged"):
        policy.load_state_dict(state)
    assert policy.state_dict()["steps"] == 0


def test_a_network_of_another_width_is_refused_with_both_shapes() -> None:
    policy = core.MetaWeightNet(hidden=3)
    before = copy.deepcopy(policy.state_dict())
    with pytest.raises(ValueError, match=r"0\.weight of shape \[5, 1\], and this MetaWeightNet has "
                                         r"\[3, 1\]"):  # fmt: skip
        policy.load_state_dict(core.MetaWeightNet(hidden=5).state_dict())
    assert identical(policy.state_dict(), before)


class Gate(Policy):
    """A policy with a network, as a user would write it."""

    def __init__(self, width: int) -> None:
        self.gate = nn.LazyLinear(1) if width == 0 else nn.Linear(width, 1)

    @property
    def networks(self) -> nn.ModuleList:
        return nn.ModuleList([self.gate])


def test_networks_of_ones_own_policies_are_checked_and_lazy_ones_take_any_shape() -> None:
    with pytest.raises(ValueError, match=r"0\.weight of shape \[1, 4\], and this Gate has \[1, 2"):
        Gate(2).load_state_dict(Gate(4).state_dict())
    with pytest.raises(ValueError, match=r"it has alpha, and a Gate has 0\.bias, 0\.weight"):
        Gate(2).load_state_dict({"alpha": 1.0})
    lazy, full = Gate(0), Gate(4)
    lazy.load_state_dict(full.state_dict())
    assert torch.equal(lazy.gate.weight, full.gate.weight)


class Counting(core.LearnedBeta):
    """A policy that keeps that of its parent in an entry of its own."""

    calls = 7

    def state_dict(self) -> dict[str, Any]:
        return {"beta": super().state_dict(), "calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state["beta"])
        self.calls = state["calls"]


class Tagged(core.LearnedBeta):
    """A policy that adds an entry beside those of its parent."""

    calls = 7

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.calls = state["calls"]


@pytest.mark.parametrize("make", [Counting, Tagged])
def test_subclasses_keep_what_they_like(make: type[Any]) -> None:
    giver, taker = make(), make()
    giver.calls = 9
    taker.load_state_dict(giver.state_dict())
    assert taker.calls == 9


def test_states_of_earlier_versions_are_taken() -> None:
    scores = core.PersistentScores(validation_gradient=core.ValidationGradient(2))
    state = scores.state_dict()
    del state["seed"], state["validation_gradient"]["averaged"]
    scores.load_state_dict(state)
    learned = core.Learned(validation_gradient=core.ValidationGradient(2))
    state = learned.state_dict()
    del state["averaged"]
    learned.load_state_dict(state)

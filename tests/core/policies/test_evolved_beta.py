"""Particles against trainings by themselves, stages by hand, and what only PES can see."""

from __future__ import annotations

import copy
import math
import threading
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn, optim

import core
from core.mixing.real_step import mixed_step
from core.policies import evolved_beta
from core.policies.evolved_beta import EvolvedBeta
from core.policies.learned_beta import LearnedBeta
from core.policies.learned_beta_config import LearnedBetaConfig
from core.testing import POLICY_CHECKS
from tests.core.policies.test_carried_beta import trained

STEPS = 20


def told(**settings: Any) -> EvolvedBeta:
    policy = EvolvedBeta(**{"begin": 0.0, "every": 2, "average_over": 1, **settings})
    policy.at(0, STEPS)
    return policy


def stream(t: int) -> torch.Generator:
    return torch.Generator().manual_seed(t)


def falling(t: int) -> float:
    return 0.1 / (1 + t)


def loss_of(net: nn.Module, toy: SimpleNamespace, t: int) -> float:
    x, y = toy.make_data(9, 5, seed=50 + t).val_batch
    with torch.no_grad():
        return float(nn.functional.cross_entropy(net.eval()(x), y))


class Along(LearnedBeta):
    """One whose log α at step t is given, and which learns nothing."""

    def follow(self, logs: list[float]) -> Along:
        self.logs = logs
        return self

    def _now(self) -> float:
        return self.logs[self._step]


def path(kind: str, place: Any, t: int) -> float:
    u = t / STEPS
    if kind == "ends":
        return float((1 - u) * place[0] + u * place[1])
    return float(place[0] + math.log(1 / (1 + math.exp((u - place[1]) / 0.05))))


@pytest.mark.parametrize("kind", ["ends", "stop"])
@pytest.mark.parametrize(
    "make",
    [partial(optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01), partial(optim.Adam, lr=0.01)],
    ids=["sgd", "adam"],
)
def test_two_stages_by_hand(toy: SimpleNamespace, make: Any, kind: Any) -> None:
    """Two trainings by themselves, at places that are two apart in each unroll, end with the losses
    that the particles have, and so with the moves of Algorithm 2."""
    sigma, reach, unit = 0.4, 3.0, np.array([1.0, 1.0 if kind == "ends" else 0.1])
    noises = [
        sigma * unit * _normals(0, batch=9),
        sigma * unit * _normals(2, batch=9),
    ]
    place, square = np.array([math.log(0.6), math.log(0.6) if kind == "ends" else 1.0]), 0.0
    logs: list[list[float]] = [[], []]
    before, travelled = 0.0, np.zeros(2)
    for stage, noise in enumerate(noises):
        ends = []
        for sign, ours in zip((1, -1), logs, strict=True):
            ours += [path(kind, place + sign * noise, t) for t in (2 * stage, 2 * stage + 1)]
            constant = Along(alpha=0.6, begin=1.0).follow(ours)
            constant.at(0, STEPS)
            net, _ = trained(toy, constant, 2 * stage + 2, make, falling)
            ends.append(loss_of(net, toy, 2 * stage + 1))
        travelled = travelled + noise
        actual = travelled / unit * (ends[0] - ends[1] - before) / (2 * sigma**2)
        before = ends[0] - ends[1]
        square = 0.95 * square + 0.05 * actual**2
        place = place - reach / 10 * unit * actual / np.sqrt(square / (1 - 0.95 ** (stage + 1)))
        place[1] = min(place[1], 1.0) if kind == "stop" else place[1]
    policy = told(alpha=0.6, sigma=sigma, reach=reach, path=kind)
    trained(toy, policy, 5, make, falling)
    end = policy.metrics()
    assert math.log(end["alpha_start"]) == pytest.approx(place[0], rel=1e-6)
    assert end["stop"] == pytest.approx(place[1], rel=1e-6) if kind == "stop" else True
    assert kind == "stop" or math.log(end["alpha_end"]) == pytest.approx(place[1], rel=1e-6)
    assert policy.present_alpha == pytest.approx(math.exp(path(kind, place, 5)), rel=1e-6)


def _normals(t: int, batch: int) -> Any:
    """Returns the two numbers that a stage draws at step t, after the noise of λ and the pairs."""
    g = stream(t)
    torch.rand(2, batch, generator=g, dtype=torch.float64)
    torch.randperm(batch, generator=g)
    return torch.randn(2, generator=g).double().numpy()


class Linear:
    """A particle whose loss sums up each unroll's place, for as many unrolls as have been since."""

    def __init__(self, *_: Any) -> None:
        self.slope = self.loss = 0.0

    def step(self, step: Any, given: Any) -> None:
        self.slope += float(given.lam[0])
        self.loss += self.slope

    def judged(self, *_: Any) -> torch.Tensor:
        return torch.tensor(self.loss)


def test_it_sees_what_an_early_change_does_at_the_end(
    toy: SimpleNamespace, monkeypatch: Any
) -> None:
    """Of log α at T = 4 steps the last loss is Σ_t (4 − t) log α_t: its derivative is 10. With each
    unroll by itself, and ε forgotten, it would be taken for 4."""
    monkeypatch.setattr(evolved_beta, "Particle", Linear)
    monkeypatch.setattr(EvolvedBeta, "_lam", lambda self, _, log_alpha, x, __: _flat(x, log_alpha))
    results: list[float] = []
    monkeypatch.setattr(evolved_beta.MeanSquare, "scaled", lambda _, value: results.append(value))
    net, data = toy.make_net(), toy.make_data(9, 5)
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    monkeypatch.setattr(EvolvedBeta, "_pace", lambda _: 0.0)
    monkeypatch.setattr(EvolvedBeta, "_turn", lambda _, __: _Nothing())
    runs = 400
    for run in range(runs):
        policy = told(every=1, sigma=0.5, bounds=(1e-9, 1e9))
        for t in range(5):
            policy(net, optimizer, data.batch, data.val_batch, generator=stream(10 * run + t))
    firsts = np.array(results).reshape(runs, 4, 2).sum((1, 2))
    # A path's log α at step t is (1 − u) a + u b: both derivatives together are those of log α.
    error = firsts.std() / math.sqrt(runs)
    assert abs(firsts.mean() - 10) < 4 * error < 4


class _Nothing:
    def __mul__(self, other: Any) -> float:
        return 0.0


def _flat(x: torch.Tensor, value: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((len(x),), value).double(), torch.zeros(len(x))


@pytest.mark.parametrize("check", POLICY_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("settings", [{"every": 1}, {"path": "stop", "every": 1}], ids=str)
def test_it_keeps_the_contract(settings: dict[str, Any], check: Any) -> None:
    check(partial(copy.deepcopy, told(**settings)))


def test_it_costs_three_steps_and_reads_validation_batches_at_the_end_of_unrolls(
    toy: SimpleNamespace,
) -> None:
    net, data = toy.make_net(), toy.make_data(9, 5)
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    policy = told(every=4, average_over=2)
    for t in range(8):
        judged = t % 4 >= 2
        val_batch = data.val_batch if judged else None
        given = policy(net, optimizer, data.batch, val_batch, generator=stream(t))
        assert given.extra_samples == 2 * 9 + (2 * 5 if judged else 0)
        assert (given.meta_loss is None) != judged
    with pytest.raises(ValueError, match="needs a meta-validation batch"):
        told(every=1)(net, optimizer, data.batch, None)


def test_particles_that_diverge_are_copied_anew(toy: SimpleNamespace) -> None:
    """The path stays where it was at that stage, and moves at the next one."""
    net, data = toy.make_net(), toy.make_data(9, 5)
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    policy, places = told(every=1), []
    for t in range(4):
        if t == 1:
            with torch.no_grad():
                policy._particles[0]._module.out.weight.fill_(math.nan)
        given = policy(net, optimizer, data.batch, data.val_batch, generator=stream(t))
        places.append(policy.metrics()["alpha_start"])
    assert given.meta_loss is not None
    assert bool(given.meta_loss.isfinite())
    assert places[1] == places[2] != places[3]


def test_after_the_end_that_was_told_alpha_is_that_of_the_end(toy: SimpleNamespace) -> None:
    net, data = toy.make_net(), toy.make_data(9, 5)
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    policy = EvolvedBeta(begin=0.0, every=1, average_over=1, reach=2.0)
    policy.at(0, 3)
    for t in range(6):
        policy(net, optimizer, data.batch, data.val_batch, generator=stream(t))
    said = policy.metrics()
    assert said["alpha"] == pytest.approx(said["alpha_end"])
    assert said["alpha_start"] != pytest.approx(said["alpha_end"])


class Listed(nn.Module):
    """Its last layer is in a plain list, which torch does not look into."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.rest = nn.Linear(4, 5).double(), [nn.Linear(5, 3).double()]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest[0](self.inp(x).tanh())


@pytest.mark.parametrize("where", ["a plain list", "the loss"])
def test_parameters_that_the_optimizer_alone_holds_are_refused(
    toy: SimpleNamespace, where: str
) -> None:
    """A particle would leave them where the real training moves them."""
    data, net, head = toy.make_data(9, 5), Listed(), nn.Linear(3, 3).double()
    if where == "the loss":
        net.rest[0].requires_grad_(False)
    others = head if where == "the loss" else net.rest[0]

    def loss(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return core.soft_cross_entropy(head(logits) if where == "the loss" else logits, y)

    optimizer = optim.SGD([*net.parameters(), *others.parameters()], lr=0.1)
    with pytest.raises(ValueError, match="that the optimizer holds and the model does not"):
        told()(net, optimizer, data.batch, data.val_batch, loss=loss)
    idle = nn.Linear(3, 3).double()  # which nothing reads
    optimizer = optim.SGD([*net.parameters(), *idle.parameters()], lr=0.1)
    assert told()(net, optimizer, data.batch, data.val_batch).lam.shape == (9,)


def test_particles_thaw_freeze_and_change_modes_as_the_training_does(toy: SimpleNamespace) -> None:
    """With no noise to speak of, each of them stays where the real training is."""
    net = toy.make_net(norm=True)
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    policy, moved = told(sigma=1e-9), []
    for t, (trains, counts) in enumerate([(False, True), (True, True), (True, False)]):
        net.inp.weight.requires_grad_(trains)
        net.norm.train(counts)
        net.dropped, net.rate = not counts, 0.1 * t  # plain settings of a loop's schedule
        data, before = toy.make_data(9, 5, seed=t), net.inp.weight.detach().clone()
        given = policy(net, optimizer, data.batch, data.val_batch, generator=stream(t))
        optimizer.zero_grad()
        mixed_step(net, optimizer, data.batch, given)
        moved.append(not torch.equal(net.inp.weight, before))
    assert moved == [False, True, True]
    assert [(p._module.dropped, p._module.rate) for p in policy._particles] == [(True, 0.2)] * 2
    for particle in policy.state_dict()["particles"]:
        for name, value in net.state_dict().items():
            torch.testing.assert_close(particle["model"][name], value, rtol=1e-6, atol=1e-7)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    with pytest.raises(ValueError, match="given parameters after learning began"):
        policy(net, optimizer, data.batch, data.val_batch, generator=stream(9))


@pytest.mark.parametrize("kind", ["ends", "stop"])
def test_a_state_from_before_learning_takes_the_path_back(toy: SimpleNamespace, kind: Any) -> None:
    net, data = toy.make_net(), toy.make_data(9, 5)
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    policy = told(path=kind, begin=0.2)
    before, first = policy.state_dict(), policy.metrics()
    for t in range(12):
        policy(net, optimizer, data.batch, data.val_batch, generator=stream(t))
    assert policy.metrics()["alpha_start"] != first["alpha_start"]
    policy.load_state_dict(before)
    assert policy.metrics() == first
    assert policy.state_dict() == told(path=kind, begin=0.2).state_dict()


def test_what_it_cannot_do_is_refused(toy: SimpleNamespace) -> None:
    net, data = toy.make_net(), toy.make_data(9, 5)
    with pytest.raises(ValueError, match=r"cannot follow LBFGS; use core\.LearnedBeta"):
        told()(net, optim.LBFGS(net.parameters()), data.batch, data.val_batch)

    def penalized(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return core.soft_cross_entropy(logits, y) + net.inp.weight.square().sum()

    optimizer = optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"the parameter 'inp\.weight'.*: use weight_decay"):
        told()(net, optimizer, data.batch, data.val_batch, loss=penalized)
    hook = optimizer.register_step_pre_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"SGD has hooks around its step.*core\.LearnedBeta"):
        told()(net, optimizer, data.batch, data.val_batch)
    hook.remove()
    told()(net, optimizer, data.batch, data.val_batch)
    net.lock = threading.Lock()
    with pytest.raises(ValueError, match=r"cannot be copied: .*; use core\.LearnedBeta"):
        told()(net, optim.SGD(net.parameters(), lr=0.1), data.batch, data.val_batch)
    for settings, message in [
        ({"sigma": -1.0}, "sigma must be positive and finite, got -1.0"),
        ({"sigma": 0.3, "path": "middle"}, "path must be ends or stop, got 'middle'"),
        ({"path": "stop"}, "path='stop' is what evolution learns; give sigma too"),
        ({"sigma": 0.3, "last_blocks": 1}, "last_blocks=1 shortens a derivative, and evolution"),
        ({"sigma": 0.3, "carry": 0.9}, "carry=0.9 and sigma=0.3 are two ways to look ahead"),
    ]:
        with pytest.raises(ValueError, match=message):
            LearnedBetaConfig(**settings)
    assert isinstance(LearnedBetaConfig(sigma=0.3, path="stop").build(), EvolvedBeta)

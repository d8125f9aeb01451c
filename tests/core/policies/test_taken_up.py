"""Policies that take up another one's state with settings of their own, as populations do."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import core
from core.policies import EvolvedBeta, Policy

STATEFUL: dict[str, Callable[[], Policy]] = {
    "evolved": lambda: EvolvedBeta(begin=0.0, every=2),
    "beta": lambda: core.LearnedBeta(begin=0.0, every=2),
    "scores": lambda: core.PersistentScores(validation_gradient=core.ValidationGradient(2)),
    "amortised": lambda: core.Amortised(every=2),
    "weights": core.PersistentWeights,
    "net": lambda: core.MetaWeightNet(hidden=3),
}


class Training:
    """A loop of 20 steps on noise; the same seed gives the same batches."""

    def __init__(self, policy: Policy, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.generator = torch.Generator().manual_seed(seed)
        self.policy, self.at = policy, 0

    def steps(self, n: int) -> list[Tensor]:
        return [self.step() for _ in range(n)]

    def step(self) -> Tensor:
        x = torch.randn(9, 4, generator=self.generator, dtype=torch.float64)
        batch, val_batch = (x[:5], torch.arange(5) % 3), (x[5:], torch.arange(4) % 3)
        self.policy.at(self.at, 20)
        given = self.policy(
            self.model,
            self.optimizer,
            batch,
            val_batch,
            generator=self.generator,
            indices=torch.arange(5),
        )
        core.mixed_step(self.model, self.optimizer, batch, given)
        self.at += 1
        return given.lam if given.weights is None else given.weights


def written(state: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


@pytest.mark.parametrize("name", STATEFUL)
def test_a_state_kept_in_memory_is_nobody_elses(name: str) -> None:
    """Neither who gave it nor the two who take it up write to it, or to each other."""
    donor = Training(STATEFUL[name]())
    donor.steps(4)
    state = donor.policy.state_dict()
    before = written(state)
    donor.steps(4)
    assert written(state) == before

    clones = [Training(STATEFUL[name](), seed) for seed in (0, 1)]
    for clone in clones:
        clone.policy.load_state_dict(state)
        clone.at = 4
    alone = clones[0].steps(4)
    clones[1].steps(4)
    assert written(state) == before
    again = Training(STATEFUL[name](), 0)
    again.policy.load_state_dict(torch.load(io.BytesIO(before), weights_only=True))
    again.at = 4
    assert all(torch.equal(a, b) for a, b in zip(again.steps(4), alone, strict=True))


def test_meta_weight_net_steps_at_its_own_rate() -> None:
    """Adam's first step is its rate times the sign of the gradient, away from 0."""
    policy = core.MetaWeightNet(hidden=3, lr=0.25, weight_decay=0.0)
    policy.load_state_dict(core.MetaWeightNet(hidden=3, lr=1e-3).state_dict())
    training = Training(policy)
    before = [p.detach().clone() for p in policy.network.parameters()]
    training.step()
    moved = [
        float((p.detach() - q).abs().max())
        for p, q in zip(policy.network.parameters(), before, strict=True)
    ]
    assert max(moved) == pytest.approx(0.25, rel=1e-3)
    policy.lr, before = 1e-12, [p.detach().clone() for p in policy.network.parameters()]
    training.step()
    for p, q in zip(policy.network.parameters(), before, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["learned", "scores", "amortised"])
def test_who_kept_no_validation_gradient_gives_none_to_who_does(kind: str) -> None:
    def make(refresh: int | None) -> Any:
        kept = None if refresh is None else core.ValidationGradient(refresh)
        learned = core.Learned(validation_gradient=kept)
        return {
            "learned": learned,
            "scores": core.PersistentScores(validation_gradient=kept),
            "amortised": core.Amortised(learned, every=2),
        }[kind]

    policy = make(3)
    Training(policy).steps(1)  # it has one already, of another training
    policy.load_state_dict(make(None).state_dict())
    found, truth = Training(policy).steps(4), Training(make(3)).steps(4)
    assert all(torch.equal(a, b) for a, b in zip(found, truth, strict=True))


@pytest.fixture(params=[torch.float64, torch.bfloat16], ids=str)
def _default_dtype(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("_default_dtype")
@pytest.mark.parametrize("make", [core.PersistentScores, core.PersistentWeights])
def test_scores_are_float32_whatever_the_default_is(make: Any) -> None:
    policy = make()
    Training(policy).steps(1)
    assert policy.scores.dtype == policy.state_dict()["scores"].dtype == torch.float32


@pytest.mark.parametrize("make", [core.LearnedBeta, EvolvedBeta])
def test_alpha_is_ones_own_until_it_is_learned(make: Any) -> None:
    donor = Training(make(begin=0.5, every=2))
    donor.steps(2)
    policy = make(begin=0.5, every=2, alpha=4.0)
    policy.load_state_dict(donor.policy.state_dict())
    assert policy.metrics()["alpha"] == pytest.approx(4.0)
    found, truth = Training(policy).step(), Training(make(begin=0.5, every=2, alpha=4.0)).step()
    assert torch.equal(found, truth)


def test_alpha_that_was_learned_is_taken_up_within_ones_own_bounds() -> None:
    donor = Training(core.LearnedBeta(begin=0.0, every=1))
    donor.steps(3)
    learned = donor.policy.metrics()["alpha"]
    assert learned != 1.0
    for bounds, expected in (((0.01, 10.0), learned), ((5.0, 8.0), 5.0)):
        policy = core.LearnedBeta(begin=0.0, every=1, alpha=6.0, bounds=bounds)
        policy.load_state_dict(donor.policy.state_dict())
        assert policy.metrics()["alpha"] == pytest.approx(expected)

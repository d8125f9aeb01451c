"""One contract, every policy; then what each policy promises for itself."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn, optim

from core.meta.reading import PAPER, Reading
from core.meta.validation_gradient import ValidationGradient
from core.mixing.interpolation import Interpolation
from core.policies.adamixup.policy import AdaMixUp
from core.policies.amortised import Amortised
from core.policies.drawn import Beta, Fixed, Frozen, NoMix
from core.policies.frozen_schedule import FrozenSchedule
from core.policies.learned import Learned
from core.policies.learned_beta import LearnedBeta
from core.policies.learned_beta_config import LearnedBetaConfig
from core.policies.meta_weight_net import MetaWeightNet
from core.policies.persistent_scores import PersistentScores
from core.policies.persistent_weights import PersistentWeights
from core.policies.protocol import Policy
from core.policies.reweighting import LearningToReweight
from core.policies.sample_weights import SampleWeights
from core.testing import POLICY_CHECKS
from core.testing.policy_contract import check_shapes_dtypes_and_ranges, scene
from tests.support.losses import brier


def learned_beta(**settings: Any) -> LearnedBeta:
    policy = LearnedBetaConfig(begin=0.0, **settings).build()
    policy.at(0, 40)
    return policy


def meta_weight_net(**settings: Any) -> MetaWeightNet:
    """Returns the same network whichever tests ran before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MetaWeightNet(**settings)


POLICIES: dict[str, Policy] = {
    "none": NoMix(),
    "beta": Beta(0.7),
    "beta_per_sample": Beta(0.7, per_sample=True),
    "fixed": Fixed(0.3),
    "frozen": Frozen((0.0, 0.2, 0.9, 0.9, 1.0)),
    "learned_default": Learned(),
    "learned_paper": Learned(PAPER),
    "learned_optimizer": Learned(Reading(inner_step="optimizer"), engine="unroll"),
    "placebo": Learned(placebo=True),
    # These carry something from step to step; what that does is tested in files of their own.
    "learned_refreshed": Learned(validation_gradient=ValidationGradient(3)),
    "amortised_placebo": Amortised(Learned(placebo=True), every=4),
    "amortised_refreshed": Amortised(Learned(validation_gradient=ValidationGradient(2)), every=2),
    "scores_refreshed": PersistentScores(every=2, validation_gradient=ValidationGradient(3)),
    "scores": PersistentScores(),
    "scores_placebo": PersistentScores(placebo=True, every=4),
    "frozen_schedule": FrozenSchedule([(0.0, 1.0), (0.2, 0.3, 0.9)]),
    "l2rw": LearningToReweight(),
    "meta_weight_net": meta_weight_net(),
    "persistent_weights": PersistentWeights(),
    "meta_weight_net_placebo": meta_weight_net(placebo=True, last_blocks=2),
    "learned_beta": learned_beta(every=2),
    "learned_beta_placebo": learned_beta(every=1, permute=True, per_sample=False),
}
STATEFUL = [
    name
    for name in POLICIES
    if name.startswith(
        ("learned_refreshed", "learned_beta", "amortised", "scores", "l2rw", "meta_weight")
    )
    or name in ("frozen_schedule", "persistent_weights")
]
every_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


@pytest.fixture
def setup(toy: SimpleNamespace) -> SimpleNamespace:
    net = toy.make_net(norm=True, drop=True, tied=True)
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    toy.warm_up(net, optimizer)
    return SimpleNamespace(net=net, optimizer=optimizer, toy=toy, **vars(toy.make_data(9, 4)))


def ask(policy: Policy, s: SimpleNamespace, **arguments: Any) -> Interpolation:
    """Returns the answer at a first step, with a validation batch exactly where the policy needs
    one."""
    policy = copy.deepcopy(policy)
    arguments.setdefault("indices", torch.arange(len(s.batch[0])))
    arguments.setdefault("generator", torch.Generator().manual_seed(8))
    val_batch = s.val_batch if policy.needs_meta_validation else None
    return policy(s.net, s.optimizer, s.batch, val_batch, **arguments)


@pytest.mark.parametrize("check", POLICY_CHECKS, ids=lambda check: check.__name__)
@every_policy
def test_every_policy_keeps_the_contract(policy: Policy, check: Callable[..., None]) -> None:
    check(partial(copy.deepcopy, policy))


@pytest.mark.parametrize("check", POLICY_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("quantiles", "discriminator"), [(None, True), ((0.2, 0.9), False)])
def test_adamixup_keeps_it_too(
    quantiles: Any, discriminator: bool, check: Callable[..., None]
) -> None:
    class Backbone(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(OrderedDict(trunk=nn.Linear(4, 5), classifier=nn.Linear(5, 3)))

    check(lambda: AdaMixUp(Backbone(), discriminator=discriminator, quantiles=quantiles))


@every_policy
def test_batches_of_one_and_what_learned_policies_add(policy: Policy) -> None:
    check_shapes_dtypes_and_ranges(partial(copy.deepcopy, policy), sizes=(1,))
    assert (policy.scores is not None) == isinstance(policy, PersistentScores | PersistentWeights)
    given, learned = scene(partial(copy.deepcopy, policy)).ask(), policy.needs_meta_validation
    assert given.lam.shape == (9,)
    for value in (given.change, given.hypergradient, given.meta_loss):
        assert (value is not None) == learned
    passes = 2 if isinstance(policy, MetaWeightNet) else 1
    assert given.extra_samples == (9 * passes + 4 if learned else 0)
    assert (given.weights is not None) == isinstance(policy, SampleWeights)


@every_policy
def test_every_batch_is_paired_anew(policy: Policy, setup: Any) -> None:
    generator = torch.Generator().manual_seed(8)
    first, second = (ask(policy, setup, generator=generator) for _ in range(2))
    unmixed = isinstance(policy, NoMix | SampleWeights)
    assert torch.equal(first.partner, second.partner) == unmixed


@every_policy
def test_a_loss_of_the_users_own(policy: Policy, setup: Any) -> None:
    calls = []

    def watched(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        calls.append(target.dim())
        return brier(logits, target)

    given = ask(policy, setup, loss=watched)
    # As soft labels; Meta-Weight-Net looks at the batch before.
    passes = 2 if isinstance(policy, MetaWeightNet) else 1
    assert calls == ([2] * (passes + 1) if policy.needs_meta_validation else [])
    if policy.needs_meta_validation:
        assert not torch.equal(given.hypergradient, ask(policy, setup).hypergradient)


@pytest.mark.parametrize("name", [name for name in POLICIES if name not in STATEFUL])
def test_policies_are_values(name: str) -> None:
    policy = POLICIES[name]
    again = copy.deepcopy(policy)
    assert again == policy
    assert hash(again) == hash(policy)
    assert list(POLICIES.values()).count(policy) == 1
    assert policy.state_dict() == {}


def test_no_mix_leaves_the_batch_alone(setup: Any) -> None:
    given = ask(NoMix(), setup)
    assert given.lam.tolist() == [1.0] * 9
    assert given.partner.tolist() == list(range(9))
    assert torch.equal(given.mix_inputs(setup.batch[0]), setup.batch[0])


def test_beta_draws_once_a_batch_or_once_a_sample(setup: Any) -> None:
    assert len(set(ask(Beta(1.0), setup).lam.tolist())) == 1
    assert len(set(ask(Beta(1.0, per_sample=True), setup).lam.tolist())) == 9


def test_beta_follows_its_alpha(setup: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    for alpha in (0.2, 3.0):
        lam = torch.cat(
            [ask(Beta(alpha, per_sample=True), setup, generator=generator).lam for _ in range(400)]
        )
        assert float(lam.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_fixed_is_fixed(setup: Any) -> None:
    given = ask(Fixed(0.3), setup)
    assert given.lam.tolist() == [0.3] * 9
    assert given.partner.tolist() != list(range(9))


def draws(policy: Policy, s: Any, calls: int = 400) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.cat([ask(policy, s, generator=generator).lam for _ in range(calls)])


def follows(values: np.ndarray, distribution: Any) -> bool:
    """Kolmogorov's distance below the bound that one of 10,000 samples goes beyond."""
    return stats.kstest(values, distribution).statistic < 2.22 / math.sqrt(len(values))


def test_frozen_draws_by_its_quantile_function(setup: Any) -> None:
    """A quarter of λ lies below the quantile of level 1/4, and is uniform there; and so on."""
    lam = draws(Frozen((0.1, 0.2, 0.6, 0.6, 0.9)), setup, 2000).numpy()
    ties = np.isclose(lam, 0.6, atol=1e-7)
    assert ties.mean() == pytest.approx(0.25, abs=0.015)
    parts = [lam[lam < 0.2], lam[(lam > 0.2) & (lam < 0.6) & ~ties], lam[(lam > 0.6) & ~ties]]
    for part, (low, high) in zip(parts, [(0.1, 0.2), (0.2, 0.6), (0.6, 0.9)], strict=True):
        assert len(part) / len(lam) == pytest.approx(0.25, abs=0.015)
        assert follows((part - low) / (high - low), "uniform")


def test_frozen_draws_for_each_sample_on_its_own(setup: Any) -> None:
    policy = Frozen((0.0, 1.0))
    lam = draws(policy, setup).view(-1, 9)
    assert len(set(lam[0].tolist())) == 9
    correlation = np.corrcoef(lam.numpy(), rowvar=False) - np.eye(9)
    assert abs(correlation).max() < 0.2  # 400 draws: standard error 0.05, 36 pairs
    given = ask(policy, setup)
    assert torch.equal(given.lam, given.lam_init)
    assert given.partner.tolist() != list(range(9))
    assert given.extra_samples == 0


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_frozen_at_one_point_is_fixed(value: float, setup: Any) -> None:
    assert set(draws(Frozen((value, value)), setup, 5).tolist()) == {value}


@pytest.mark.parametrize(
    ("quantiles", "message"),
    [
        ((), "2 or more, from level 0 to 1; got 0"),
        ((0.5,), "2 or more, from level 0 to 1; got 1"),
        ((0.0, 1.1), r"must lie in \[0, 1\], got 1.1 at index 1"),
        ((-0.1, 1.0), r"must lie in \[0, 1\], got -0.1 at index 0"),
        ((0.0, float("nan"), 1.0), r"must lie in \[0, 1\], got nan at index 1"),
        ((0.0, 0.5, 0.4, 1.0), "must not fall, got 0.4 after 0.5 at index 2"),
    ],
)
def test_quantiles_that_are_none_are_refused(quantiles: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Frozen(quantiles)


@pytest.mark.parametrize("lam", [-0.1, 1.1, float("nan")])
def test_fixed_out_of_range_is_refused(lam: float) -> None:
    with pytest.raises(ValueError, match=r"fixed lam must lie in \[0, 1\], got"):
        Fixed(lam)


@pytest.mark.parametrize("alpha", [-2.0, float("nan"), float("inf")])
def test_beta_out_of_range_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="must be positive and finite"):
        Beta(alpha)


def test_alpha_zero_mixes_nothing() -> None:
    x, y = torch.rand(6, 1, 4, 4), torch.arange(6) % 3
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for per_sample in (False, True):
        generator = torch.Generator().manual_seed(0)
        got = Beta(0.0, per_sample)(model, optimizer, (x, y), generator=generator)
        assert torch.equal(got.lam, torch.ones(6))

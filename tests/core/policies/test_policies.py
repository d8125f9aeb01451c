"""One contract, every policy; then what each policy promises for itself."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import optim

from core.meta.reading import PAPER, Reading
from core.meta.validation_gradient import ValidationGradient
from core.mixing.interpolation import Interpolation
from core.policies.amortised import Amortised
from core.policies.drawn import Beta, Fixed, Frozen, NoMix
from core.policies.learned import Learned
from core.policies.persistent_scores import PersistentScores
from core.policies.protocol import Policy

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
    "learned_last_blocks": Learned(last_blocks=2),
    # These carry something from step to step; what that does is tested in files of their own.
    "learned_refreshed": Learned(validation_gradient=ValidationGradient(3)),
    "amortised": Amortised(every=4),
    "amortised_placebo": Amortised(Learned(placebo=True), every=4),
    "scores": PersistentScores(),
    "scores_placebo": PersistentScores(placebo=True, every=4),
}
STATEFUL = ("learned_refreshed", "amortised", "amortised_placebo", "scores", "scores_placebo")
every_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


@pytest.fixture
def setup(toy: SimpleNamespace) -> SimpleNamespace:
    net = toy.make_net(norm=True, drop=True, tied=True)
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    toy.warm_up(net, optimizer)
    return SimpleNamespace(net=net, optimizer=optimizer, toy=toy, **vars(toy.make_data(9, 4)))


def ask(policy: Policy, s: SimpleNamespace, **arguments: Any) -> Interpolation:
    """The answer at a first step, with a validation batch exactly where the policy needs one."""
    policy = copy.deepcopy(policy)
    arguments.setdefault("indices", torch.arange(len(s.batch[0])))
    arguments.setdefault("generator", torch.Generator().manual_seed(8))
    val_batch = s.val_batch if policy.needs_meta_validation else None
    return policy(s.net, s.optimizer, s.batch, val_batch, **arguments)


@every_policy
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("n", [1, 9])
def test_shapes_dtypes_and_ranges(
    policy: Policy, dtype: torch.dtype, soft: bool, n: int, toy: SimpleNamespace
) -> None:
    net = toy.make_net(dtype=dtype)
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    data = toy.make_data(n, 3, dtype=dtype, soft=soft)
    val_batch = data.val_batch if policy.needs_meta_validation else None
    policy = copy.deepcopy(policy)
    given = policy(net, optimizer, data.batch, val_batch, indices=torch.arange(n))
    assert given.lam.shape == given.lam_init.shape == (n,)
    assert given.lam.dtype == given.lam_init.dtype == dtype
    assert given.partner.dtype == torch.int64
    assert sorted(given.partner.tolist()) == list(range(n))
    for lam in (given.lam, given.lam_init):
        assert bool(((lam >= 0) & (lam <= 1)).all())
        assert not lam.requires_grad
    mixed = given.mix_inputs(data.batch[0])
    labels = given.mix_labels(data.batch[1], toy.CLASSES)
    assert mixed.shape == data.batch[0].shape
    assert (mixed.dtype, labels.dtype) == (dtype, dtype)
    torch.testing.assert_close(labels.sum(1), torch.ones(n, dtype=dtype))
    learned = policy.needs_meta_validation
    for value in (given.change, given.hypergradient, given.meta_loss):
        assert (value is not None) == learned
    assert given.extra_samples == (n + 3 if learned else 0)


@every_policy
def test_reproducible_from_the_state_of_a_generator(policy: Policy, setup: Any) -> None:
    generator = torch.Generator().manual_seed(8)
    ask(policy, setup, generator=generator)
    state = generator.get_state()
    stream = torch.get_rng_state()
    first = ask(policy, setup, generator=generator)
    assert torch.equal(torch.get_rng_state(), stream)
    torch.rand(3)
    other = torch.Generator()
    other.set_state(state)
    # Dropout in the virtual passes draws from torch's own stream: it must stand the same.
    torch.set_rng_state(stream)
    assert setup.toy.identical(vars(ask(policy, setup, generator=other)), vars(first))
    assert torch.equal(other.get_state(), generator.get_state())
    if not isinstance(policy, NoMix):
        assert not torch.equal(ask(policy, setup, generator=generator).partner, first.partner)


@every_policy
def test_without_a_generator_torchs_stream_is_used(policy: Policy, setup: Any) -> None:
    torch.manual_seed(1)
    first = ask(policy, setup, generator=None)
    after = torch.get_rng_state()
    torch.manual_seed(1)
    again = ask(policy, setup, generator=None)
    assert setup.toy.identical(vars(first), vars(again))
    assert torch.equal(after, torch.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(after, torch.get_rng_state()) == isinstance(policy, NoMix)


@every_policy
def test_changes_nothing(policy: Policy, setup: Any) -> None:
    setup.net.inp.weight.grad = torch.ones_like(setup.net.inp.weight)
    setup.net.norm.eval()
    before = setup.toy.snapshot(setup.net, setup.optimizer)
    x, y = setup.batch[0].clone(), setup.batch[1].clone()
    ask(policy, setup)
    assert setup.toy.identical(before, setup.toy.snapshot(setup.net, setup.optimizer))
    assert torch.equal(x, setup.batch[0])
    assert torch.equal(y, setup.batch[1])


@every_policy
def test_scores_are_for_those_that_keep_them(policy: Policy) -> None:
    assert (policy.scores is not None) == isinstance(policy, PersistentScores)


@every_policy
def test_needs_meta_validation_is_honest(policy: Policy, setup: Any) -> None:
    if policy.needs_meta_validation:
        with pytest.raises(ValueError, match="needs a meta-validation batch, got None"):
            policy(setup.net, setup.optimizer, setup.batch, None, indices=torch.arange(9))
        # and it is read: other validation images, other λ
        a = ask(policy, setup)
        x, y = setup.val_batch
        setup.val_batch = (-x, y)
        assert not torch.equal(ask(policy, setup).lam, a.lam)
    else:
        generator = torch.Generator().manual_seed(8)
        given = policy(
            setup.net, setup.optimizer, setup.batch, setup.val_batch, generator=generator
        )
        assert setup.toy.identical(vars(given), vars(ask(policy, setup)))


@every_policy
def test_bad_batches_are_refused_alike(policy: Policy, setup: Any) -> None:
    x, y = setup.batch
    for batch, message in [
        ((x.byte(), y), "training inputs must be floating point"),
        ((x, y[:-1]), r"training labels must be integers \[9\]"),
        ((x[:0], y[:0]), "n >= 1"),
    ]:
        setup.batch = batch
        with pytest.raises(ValueError, match=message):
            ask(policy, setup)


@every_policy
def test_a_loss_of_the_users_own(policy: Policy, setup: Any) -> None:
    calls = []

    def brier(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        calls.append(target.dim())
        return (logits.softmax(1) - setup.toy.one_hot(target)).square().sum(1).mean()

    given = ask(policy, setup, loss=brier)
    assert calls == ([2, 2] if policy.needs_meta_validation else [])  # both as soft labels
    if policy.needs_meta_validation:
        assert not torch.equal(given.hypergradient, ask(policy, setup).hypergradient)


@pytest.mark.parametrize("name", [name for name in POLICIES if name not in STATEFUL])
def test_policies_are_values(name: str) -> None:
    policy = POLICIES[name]
    assert hash(policy) == hash(policy)
    assert list(POLICIES.values()).count(policy) == 1
    assert policy.state_dict() == {}


@every_policy
def test_a_state_taken_before_the_first_step_can_be_given_back(policy: Policy, setup: Any) -> None:
    fresh, used = copy.deepcopy(policy), copy.deepcopy(policy)
    state = fresh.state_dict()
    ask(used, setup)
    for _ in range(2):
        used(setup.net, setup.optimizer, setup.batch, setup.val_batch, indices=torch.arange(2, 11))
    used.load_state_dict(state)
    assert setup.toy.identical(vars(ask(used, setup)), vars(ask(policy, setup)))


@every_policy
def test_indices_are_read_where_something_is_kept_for_each_sample(
    policy: Policy, setup: Any
) -> None:
    if isinstance(policy, PersistentScores):
        with pytest.raises(ValueError, match="need `indices`"):
            ask(policy, setup, indices=None)
        a, b = (ask(policy, setup, indices=i) for i in (torch.arange(9), torch.arange(9) // 3))
        assert not torch.equal(a.lam, b.lam)
    else:
        found = [vars(ask(policy, setup, indices=i)) for i in (None, torch.arange(9) // 3)]
        assert setup.toy.identical(*found)


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


def test_frozen_quantiles_of_beta_give_beta(setup: Any) -> None:
    levels = np.linspace(0, 1, 101)
    lam = draws(Frozen(tuple(stats.beta.ppf(levels, 0.5, 0.5).tolist())), setup, 2000).numpy()
    assert follows(lam, stats.beta(0.5, 0.5).cdf)
    uniform = draws(Frozen((0.0, 1.0)), setup, 2000).numpy()
    assert follows(uniform, "uniform")


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


def test_placebo_shares_draws_and_hypergradient_with_learning_but_not_lam(setup: Any) -> None:
    learned, placebo = ask(Learned(), setup), ask(Learned(placebo=True), setup)
    for field in ("partner", "lam_init", "hypergradient", "meta_loss"):
        assert torch.equal(getattr(learned, field), getattr(placebo, field)), field
    assert not torch.allclose(learned.lam, placebo.lam)


def test_engines_agree(setup: Any) -> None:
    a, b = (ask(Learned(engine=e), setup) for e in ("unroll", "double_backward"))
    torch.testing.assert_close(a.lam, b.lam, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("lam", [-0.1, 1.1, float("nan")])
def test_fixed_out_of_range_is_refused(lam: float) -> None:
    with pytest.raises(ValueError, match=r"fixed lam must lie in \[0, 1\], got"):
        Fixed(lam)


@pytest.mark.parametrize("alpha", [0.0, -2.0, float("nan"), float("inf")])
def test_beta_out_of_range_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="must be positive and finite"):
        Beta(alpha)

"""The derivative of log α against differences, closed forms, and what is kept from step to step."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import betaincinv
from torch import Tensor, nn, optim

from core.meta.objectives import OBJECTIVES, Objective
from core.mixing.batch import draw_partners
from core.mixing.pairing import Pairing
from core.mixing.real_step import mixed_step
from core.policies import LearnedBetaConfig
from core.policies.carried_beta import CarriedBeta
from core.policies.evolved_beta import EvolvedBeta
from core.policies.learned_beta import LearnedBeta, signal_over_noise
from core.policies.symmetric_beta import draw_noise, symmetric_beta
from core.training.config import TrainingConfig
from core.training.fit import fit
from core.user_model.ranks import ALONE
from tests.support.digit_trainings import digits, interrupt, numbers

# ---------------------------------------------------------------------------- λ as noise makes it


@pytest.mark.parametrize("alpha", [0.02, 0.3, 1.0, 7.0])
def test_lambda_is_beta_distributed_and_its_derivative_is_that_of_the_distribution(
    alpha: float,
) -> None:
    """E λ² = ½ − ½ α/(2α + 1), and so dE λ²/d(log α) = −½ α/(2α + 1)²; the same of (λ − ½)⁴."""
    lam, along = symmetric_beta(
        draw_noise(400_000, torch.Generator().manual_seed(0)), math.log(alpha)
    )
    inner = lam[(lam > 0.01) & (lam < 0.99)].numpy()  # float64 takes what is nearer to 1 for 1
    law = stats.beta(alpha, alpha)
    outside = 2 * float(law.cdf(0.01))
    assert len(inner) == pytest.approx(len(lam) * (1 - outside), abs=4 * math.sqrt(len(lam)))
    assert (
        stats.kstest(inner[:20_000], lambda x: (law.cdf(x) - outside / 2) / (1 - outside)).pvalue
        > 1e-3
    )
    square = 2 * lam * along
    error = float(square.std()) / math.sqrt(len(square))
    expected = -0.5 * alpha / (2 * alpha + 1) ** 2
    assert abs(float(square.mean()) - expected) < 4 * error < 0.05 * abs(expected)

    def fourth(a: float) -> float:  # of λ − ½
        return 3 / (16 * (2 * a + 1) * (2 * a + 3))

    h = 1e-4
    slope = (fourth(alpha * math.exp(h)) - fourth(alpha * math.exp(-h))) / (2 * h)
    measured = 4 * (lam - 0.5) ** 3 * along
    error = float(measured.std()) / math.sqrt(len(measured))
    assert abs(float(measured.mean()) - slope) < 4 * error < 0.05 * abs(slope)


def test_its_mean_at_a_lambda_is_the_implicit_derivative_of_the_quantile_function() -> None:
    """Which torch's own `Beta.rsample` has: here by differences of the inverse CDF."""
    alpha, h = 0.4, 1e-4
    lam, along = symmetric_beta(
        draw_noise(1_000_000, torch.Generator().manual_seed(1)), math.log(alpha)
    )
    for level in (0.15, 0.4, 0.8):
        up, down = (betaincinv(a, a, level) for a in (alpha * math.exp(h), alpha * math.exp(-h)))
        near = along[(lam - betaincinv(alpha, alpha, level)).abs() < 0.01]
        error = float(near.std()) / math.sqrt(len(near))
        assert abs(float(near.mean()) - (up - down) / (2 * h)) < 4 * error + 1e-3


def test_the_derivative_is_that_of_the_function_and_extreme_noise_does_no_harm() -> None:
    noise = draw_noise(1000, torch.Generator().manual_seed(2))
    noise[:, :6] = torch.tensor(
        [[0.0, 0.0, 1 - 2**-53, 1 - 2**-53, 2**-53, 0.5], [0, 0.25, 0, 0.25, 0.75, 0.5]]
    )
    h = 1e-5
    for alpha in (0.01, 0.2, 1.0, 10.0):
        lam, along = symmetric_beta(noise, math.log(alpha))
        assert bool(((lam >= 0) & (lam <= 1)).all())
        assert bool(along.isfinite().all())
        up, down = (symmetric_beta(noise, math.log(alpha) + d)[0] for d in (h, -h))
        torch.testing.assert_close(along, (up - down) / (2 * h), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("n", [1, 7])
def test_stratified_noise_has_one_number_in_each_part_and_is_uniform(n: int) -> None:
    """Their mean has the variance of one part, 1/12/n², over n: by n² less than chance gives it."""
    generator = torch.Generator().manual_seed(5)
    drawn = torch.stack([draw_noise(n, generator, stratified=True) for _ in range(2000)])
    expected = torch.arange(n).expand(2000, 2, n)
    assert torch.equal((drawn * n).long().sort(dim=2).values, expected)
    for row in (0, 1):
        for place in (0, n - 1):
            assert stats.kstest(drawn[:, row, place].numpy(), "uniform").pvalue > 1e-3
    assert stats.pearsonr(drawn[:, 0, 0].numpy(), drawn[:, 1, 0].numpy()).pvalue > 1e-3
    variance = float(drawn[:, 0].mean(dim=1).var())
    assert variance == pytest.approx(1 / 12 / n**3, rel=0.15)


# ------------------------------------------------------------------------ the hypergradient itself


class Told(LearnedBeta):
    """One that learns from the first step on, and was told that there are 100."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at(0, 100)


def told(**settings: Any) -> LearnedBeta:
    return Told(**{"begin": 0.0, "every": 1, "average_over": 1, **settings})


def scene(toy: SimpleNamespace, n: int = 9, **options: Any) -> SimpleNamespace:
    net = toy.make_net(**options)
    optimizer = optim.SGD(net.parameters(), lr=0.2, momentum=0.9, weight_decay=0.01)
    toy.warm_up(net, optimizer)
    return SimpleNamespace(net=net, optimizer=optimizer, **vars(toy.make_data(n, 5)))


def stream(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def parts(policy: LearnedBeta, s: SimpleNamespace, monkeypatch: Any, **more: Any) -> Tensor:
    """Returns the terms of the derivative of a meta stage: their sum is d(meta loss)/d(log α)."""
    caught: list[Tensor] = []

    def caught_terms(terms: Tensor, ranks: Any) -> float:
        caught.append(terms)
        return signal_over_noise(terms, ranks)

    monkeypatch.setattr("core.policies.learned_beta.signal_over_noise", caught_terms)
    policy(s.net, s.optimizer, s.batch, s.val_batch, generator=stream(), **more)
    return caught[0]


def judged(net: nn.Module, val_batch: Any, objective: Objective, one_hot: Any) -> float:
    """Returns the validation loss, written out."""
    x, y = val_batch
    with torch.no_grad():
        logits = net(x)
    if objective == "brier":
        return float((logits.softmax(1) - one_hot(y)).square().sum(1).mean())
    if objective == "tempered":
        best = minimize_scalar(
            lambda b: float(nn.functional.cross_entropy(math.exp(b) * logits, y)),
            bounds=(-3.0, 3.0),
            method="bounded",
            options={"xatol": 1e-9},
        )
        return float(best.fun)
    return float(nn.functional.cross_entropy(logits, y))


@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize("dominant", [True, False])
@pytest.mark.parametrize("inner_step", ["gradient_descent", "optimizer"])
def test_log_alpha_against_differences_of_the_whole_step(
    toy: SimpleNamespace, monkeypatch: Any, inner_step: Any, dominant: bool, per_sample: bool
) -> None:
    """A plain training's own step at α e^±h, with the noise held; momentum only where it counts."""
    s, h = scene(toy, norm=True), 1e-5
    if inner_step == "gradient_descent":
        s.optimizer = optim.SGD(s.net.parameters(), lr=0.2)
    settings = {"inner_step": inner_step, "per_sample": per_sample}
    pairing = Pairing(dominant=dominant)
    terms = parts(told(alpha=0.6, **settings), s, monkeypatch, pairing=pairing)

    def after(log_alpha: float) -> float:
        net, state = copy.deepcopy(s.net), copy.deepcopy(s.optimizer.state_dict())
        optimizer = type(s.optimizer)(net.parameters(), lr=0.1)
        optimizer.load_state_dict(state)
        constant = told(alpha=math.exp(log_alpha), begin=1.0, **settings)
        given = constant(net, optimizer, s.batch, generator=stream(), pairing=pairing)
        mixed_step(net, optimizer, s.batch, given)
        return judged(net, s.val_batch, "loss", toy.one_hot)

    at = math.log(0.6)
    expected = (after(at + h) - after(at - h)) / (2 * h)
    assert float(terms.sum()) == pytest.approx(expected, rel=1e-5)
    assert abs(expected) > 1e-5


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_objective_against_differences(
    toy: SimpleNamespace, monkeypatch: Any, objective: Objective
) -> None:
    s, h = scene(toy), 1e-5
    s.optimizer = optim.SGD(s.net.parameters(), lr=0.05)
    with torch.no_grad():  # most are right, not all: the temperature is within its bounds
        y = s.net(s.val_batch[0]).argmax(1)
    s.val_batch = (s.val_batch[0], torch.cat([(y[:1] + 1) % 3, y[1:]]))
    terms = parts(told(alpha=0.6, objective=objective), s, monkeypatch)

    def after(log_alpha: float) -> float:
        net = copy.deepcopy(s.net)
        optimizer = optim.SGD(net.parameters(), lr=0.05)
        given = told(alpha=math.exp(log_alpha), begin=1.0)(
            net, optimizer, s.batch, generator=stream()
        )
        mixed_step(net, optimizer, s.batch, given)
        return judged(net, s.val_batch, objective, toy.one_hot)

    at = math.log(0.6)
    expected = (after(at + h) - after(at - h)) / (2 * h)
    assert float(terms.sum()) == pytest.approx(expected, rel=1e-4)


def test_the_move_by_hand(toy: SimpleNamespace, monkeypatch: Any) -> None:
    """reach over the stages left, times s/√(1 + s²), s the sum over the root of squares."""
    s = scene(toy)
    for every, begin, stages in [(1, 0.0, 100), (8, 0.0, 13), (8, 0.5, 7)]:
        policy = told(every=every, begin=begin, reach=3.0)
        policy.at(math.ceil(begin * 100), 100)
        terms = parts(policy, s, monkeypatch).numpy()
        signal = terms.sum() / np.sqrt((terms**2).sum())
        expected = -3.0 / stages * terms.sum() / np.sqrt(terms.sum() ** 2 + (terms**2).sum())
        assert math.log(policy.present_alpha) == pytest.approx(expected, rel=1e-9)
        assert policy.metrics() == {
            "alpha": pytest.approx(math.exp(expected)),
            "alpha_signal": pytest.approx(signal),
        }
        assert "alpha_signal" not in policy.metrics()


def test_signal_over_noise_by_hand() -> None:
    assert signal_over_noise(torch.tensor([3.0, 4.0]), ALONE) == pytest.approx(7 / 5)
    assert signal_over_noise(torch.tensor([-1e-30, -1e-30]), ALONE) == pytest.approx(-math.sqrt(2))
    assert signal_over_noise(torch.zeros(3), ALONE) == 0


def test_the_real_batch_is_mixed_at_the_moved_alpha_with_the_same_noise(
    toy: SimpleNamespace,
) -> None:
    s = scene(toy)
    policy = told(alpha=0.5, reach=50.0)
    given = policy(s.net, s.optimizer, s.batch, s.val_batch, generator=stream())
    r = stream()
    noise, partner = draw_noise(9, r), draw_partners(9, generator=r)
    assert policy.present_alpha != 0.5
    moved = symmetric_beta(noise, math.log(policy.present_alpha))[0]
    torch.testing.assert_close(given.lam, moved, rtol=1e-12, atol=0)  # log(exp(...)) rounds
    assert torch.equal(given.lam_init, symmetric_beta(noise, math.log(0.5))[0])
    assert torch.equal(given.partner, partner)
    assert given.change is not None
    assert torch.equal(given.change, given.lam - given.lam_init)


def test_alpha_follows_the_derivative_to_its_bounds() -> None:
    """One class to learn and to judge by: mixing does harm where partners are of the other class,
    and none is better; judged by labels that are all mixed, more is."""
    x = torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]], dtype=torch.float64).repeat(8, 1)
    y = torch.arange(2).repeat(8)
    for target, least, most in [(y, 0.01, 0.01), (torch.full((16, 2), 0.5).double(), 3.0, 10.0)]:
        net = nn.Linear(4, 2).double()
        nn.init.zeros_(net.weight)
        nn.init.zeros_(net.bias)
        policy = told(alpha=1.0, reach=40.0)
        optimizer = optim.SGD(net.parameters(), lr=0.3)
        for t in range(40):
            given = policy(net, optimizer, (x, y), (x, target), generator=stream(t))
            mixed_step(net, optimizer, (x, y), given)
        assert least * 0.999 <= policy.present_alpha <= most * 1.001


# ------------------------------------------------------------------------------- when it learns


def rates(schedule: str, n: int) -> list[float]:
    t = np.arange(n) / n
    made = {
        "cosine": 0.5 * (1 + np.cos(np.pi * t)),
        "constant": np.ones(n),
        "step": np.where(t < 0.5, 1.0, np.where(t < 0.75, 0.1, 0.01)),
        "warm-up, cosine": 0.5 * (1 + np.cos(np.pi * t)) * np.minimum(1, (t + 1 / n) / 0.05),
        "warm-up from 0": np.minimum(1, np.floor(t * n) / 20),
        "warm-up late": np.maximum(0, np.minimum(1, (t - 0.05) / 0.05)),
        "never": np.zeros(n),
    }
    return [0.1 * float(r) for r in made[schedule]]


@pytest.mark.parametrize(
    ("schedule", "begins"),
    [
        ("cosine", 0.588),
        ("constant", 0.75),
        ("step", 0.5),
        ("warm-up, cosine", 0.6),
        ("warm-up from 0", 0.75),
        ("warm-up late", 0.77),
        ("never", 1.0),
    ],
)
def test_learning_begins_where_a_quarter_of_the_way_is_left(
    toy: SimpleNamespace, schedule: str, begins: float
) -> None:
    s, n = scene(toy), 400
    policy = LearnedBeta(every=1000)
    policy.at(0, n)
    for t, rate in enumerate(rates(schedule, n)):
        s.optimizer.param_groups[0]["lr"] = rate
        given = policy(s.net, s.optimizer, s.batch, s.val_batch, generator=stream(t))
        if given.hypergradient is not None:
            break
    assert t / n == pytest.approx(begins, abs=0.012)


def test_after_the_end_that_was_told_nothing_begins(toy: SimpleNamespace) -> None:
    s = scene(toy)
    for begin in (1.0, 0.95):
        policy = LearnedBeta(begin=begin)
        policy.at(9, 10)
        for t in range(3):
            given = policy(s.net, s.optimizer, s.batch, s.val_batch, generator=stream(t))
            assert given.change is None
        assert policy.present_alpha == 1.0


def test_a_stage_at_every_kth_step_from_the_beginning_on_and_no_validation_batch_before(
    toy: SimpleNamespace,
) -> None:
    s = scene(toy)
    policy = LearnedBeta(begin=0.3, every=3)
    policy.at(0, 12)
    learned = []
    for t in range(12):
        stage = t >= 4 and (t - 4) % 3 == 0
        given = policy(
            s.net, s.optimizer, s.batch, s.val_batch if stage else None, generator=stream(t)
        )
        learned.append(given.hypergradient is not None)
        assert given.extra_samples == (9 + 5 if stage else 0)
        assert (given.change is None) == (t < 4)
    assert [t for t, stage in enumerate(learned) if stage] == [4, 7, 10]
    policy.at(4, 12)
    with pytest.raises(ValueError, match="needs a meta-validation batch"):
        policy(s.net, s.optimizer, s.batch, None)


def test_what_was_found_since_the_last_metrics_is_kept(toy: SimpleNamespace) -> None:
    s, policy = scene(toy), told(begin=0.0, every=1)
    policy.at(0, 40)
    policy(s.net, s.optimizer, s.batch, s.val_batch, generator=stream())
    taken = told(begin=0.0, every=1)
    taken.load_state_dict(policy.state_dict())
    found = policy.metrics()
    assert taken.metrics() == found
    assert set(found) == {"alpha", "alpha_signal"}


def test_the_placebo_moves_as_far_and_by_a_coin(toy: SimpleNamespace) -> None:
    s = scene(toy)
    moves = []
    for seed in range(12):
        logs = []
        for placebo in (False, True):
            policy = told(placebo=placebo)
            policy(s.net, s.optimizer, s.batch, s.val_batch, generator=stream(seed))
            logs.append(math.log(policy.present_alpha))
        assert abs(logs[0]) == pytest.approx(abs(logs[1]))
        moves.append(logs[0] * logs[1] > 0)
    assert 2 <= sum(moves) <= 10


def test_the_validation_gradient_is_averaged(toy: SimpleNamespace) -> None:
    """Of three stages at the same weights the third's is that of the three batches together."""
    s = scene(toy)
    batches = [toy.make_data(9, 5, seed=40 + t).val_batch for t in range(3)]
    policy = told(average_over=3, reach=0.0, inner_step="gradient_descent")
    s.optimizer = optim.SGD(s.net.parameters(), lr=1e-9)
    for val_batch in batches:
        last = policy(s.net, s.optimizer, s.batch, val_batch, generator=stream())
    joined = tuple(map(torch.cat, zip(*batches, strict=True)))
    once = told(average_over=1, reach=0.0)
    truth = once(s.net, s.optimizer, s.batch, joined, generator=stream())
    assert last.hypergradient is not None
    assert truth.hypergradient is not None
    torch.testing.assert_close(last.hypergradient, truth.hypergradient, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 20.0}, r"alpha must lie within bounds \[0.01, 10.0\], got 20.0"),
        ({"bounds": (1.0, 0.5)}, "bounds of alpha must be positive and rising"),
        ({"begin": 1.5}, r'begin must be "auto" or lie in \[0, 1\], got 1.5'),
        ({"begin": "late"}, "begin must be"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"average_over": 0}, "average_over must be at least 1, got 0"),
        ({"reach": math.nan}, "reach must be finite and at least 0, got nan"),
        ({"objective": "error"}, "objective must be loss, cross-entropy, brier, tempered; got"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    for make in (LearnedBeta, LearnedBetaConfig):
        with pytest.raises(ValueError, match=message):
            make(**settings)
    with pytest.raises(ValueError, match="average_over=8 keeps a validation gradient"):
        LearnedBeta(engine="unroll")  # not after hours, where learning begins


def test_who_says_nothing_of_the_length_is_told_how(toy: SimpleNamespace) -> None:
    s = scene(toy)
    with pytest.raises(ValueError, match=r"policy.at\(0, steps=epochs \* len\(loader\)\)"):
        LearnedBeta()(s.net, s.optimizer, s.batch, s.val_batch)
    with pytest.raises(ValueError, match=r"step must lie in \[0, 5\)"):
        LearnedBeta().at(5, 5)


class Dropping(nn.Module):
    """It draws, keeps count in a buffer, and has the shape of its input from the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.LazyLinear(6), nn.BatchNorm1d(6)
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.dropout(self.norm(self.first(x)), 0.3, self.training))


@pytest.mark.parametrize("generator", ["own", "global"])
@pytest.mark.parametrize("kind", [LearnedBeta, CarriedBeta, EvolvedBeta])
def test_what_learning_refuses_is_refused_at_the_second_step_which_changes_nothing(
    toy: SimpleNamespace, kind: type[LearnedBeta], generator: str
) -> None:
    x, y = toy.make_data(9, 5).batch
    batch = x.flatten(1).float(), y

    def trained(begin: float, hooked: bool = False, **settings: Any) -> list[Tensor]:
        torch.manual_seed(0)
        net, given = Dropping(), stream() if generator == "own" else None
        net(batch[0])
        optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        if hooked:
            optimizer.register_step_post_hook(lambda *_: None)
        policy = kind(begin=begin, every=2, average_over=1, **settings)
        policy.at(0, 100)
        drawn = []
        for _ in range(3):  # no validation batch is read before learning begins
            interpolation = policy(net, optimizer, batch, generator=given)
            assert interpolation.extra_samples == 0
            mixed_step(net, optimizer, batch, interpolation)
            drawn += [interpolation.lam, interpolation.partner]
        drawn += [*net.state_dict().values(), torch.rand(2), torch.rand(2, generator=given)]
        return drawn

    never, late = trained(1.0), trained(0.5)
    assert all(torch.equal(a, b) for a, b in zip(never, late, strict=True))
    wrong: dict[str, Any] = {"hooked": True} if kind is EvolvedBeta else {"last_blocks": 9}
    trained(1.0, **wrong)  # it never learns, and so has no use for it
    with pytest.raises(ValueError, match=r"has hooks around its step|last_blocks"):
        trained(0.5, **wrong)


def test_a_lazy_model_begins_with_its_first_step(toy: SimpleNamespace) -> None:
    x, y = toy.make_data(9, 5).batch
    batch, net = (x.flatten(1).float(), y), Dropping()
    policy = LearnedBeta(begin=0.5)
    policy.at(0, 100)
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        mixed_step(net, optimizer, batch, policy(net, optimizer, batch))


# ------------------------------------------------------------------------------ whole trainings


def config(**policy: Any) -> TrainingConfig:
    return TrainingConfig(
        dataset="digits", model="digits_cnn", policy=LearnedBetaConfig(**policy), train_size=60,
        meta_size=30, epochs=4, batch_size=20, meta_batch_size=10, lr=0.05, flip=False,
    )  # fmt: skip


def test_a_training_learns_late_and_goes_on_alike_after_a_kill(
    tmp_path: Path, monkeypatch: Any
) -> None:
    settings = config(every=2)
    whole = fit(settings, source=digits())
    alphas = [epoch["alpha"] for epoch in whole.history]
    assert alphas[0] == alphas[1] == 1.0
    assert len(set(alphas)) == 3
    assert "hypergradient_rms" in whole.history[-1]
    assert "meta_loss" not in whole.history[0]
    monkeypatch.setattr("core.training.fit.CHECKPOINT_SECONDS", 0.0)
    interrupt(settings, tmp_path, 3)
    assert numbers(fit(settings, source=digits(), directory=tmp_path)) == numbers(whole)

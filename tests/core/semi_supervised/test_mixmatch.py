"""MixMatch against numbers worked by hand and against the same step written out as formulas."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from core.meta.reading import PAPER, Reading
from core.mixing.area import AreaMixing
from core.mixing.batch import draw_beta, draw_partners
from core.mixing.interpolation import Interpolation
from core.policies.config import PolicyConfig
from core.policies.drawn import Beta, CutMix, NoMix
from core.policies.learned import Learned
from core.policies.learned_beta_config import LearnedBetaConfig
from core.policies.learned_config import ScoresConfig
from core.policies.persistent_scores import PersistentScores
from core.policies.protocol import Policy
from core.semi_supervised.config import SemiSupervisedConfig
from core.semi_supervised.method import SemiBatch, SemiStep
from core.semi_supervised.mixmatch import (
    MixMatch,
    MixMatchLoss,
    guess_labels,
    interleaved,
    interleaved_logits,
    sharpen,
)
from core.training.config import TrainingConfig
from tests.support.differences import differences

RATE, DECAY, MOMENTUM = 0.3, 0.75, 0.1
SIZES = [(1, 4, 4), (2, 5, 3), (2, 4, 9), (3, 6, 5)]
"""K, B, U."""
every_size = pytest.mark.parametrize(("k", "b", "u"), SIZES)


@dataclass(frozen=True)
class Given(Policy):
    """Gives the interpolation it was given, and keeps what it was asked."""

    interpolation: Interpolation
    asked: dict[str, Any] = field(default_factory=dict)
    needs_meta_validation = False

    def __call__(self, model: Any, optimizer: Any, batch: Any, val_batch: Any = None, **rest: Any):
        self.asked.update(rest, batch=batch)
        return self.interpolation


def make_batch(k: int, b: int, u: int, toy: SimpleNamespace, progress: float = 0.5) -> SemiBatch:
    data = toy.make_data(b, 6)
    g = torch.Generator().manual_seed(3)
    views = tuple(torch.randn(u, 4, generator=g, dtype=torch.float64) for _ in range(k))
    indices = torch.arange(100, 100 + b + u)
    return SemiBatch(data.batch, views, indices, data.val_batch, epoch=0, progress=progress)


def make_method(net: nn.Module, policy: Policy, **settings: Any) -> MixMatch:
    settings = {"weight": 75.0, "ema": 0.999, **settings}
    return MixMatch(SemiSupervisedConfig("mixmatch", labelled=4, **settings), net, policy)


def take(
    net: nn.Module, policy: Policy, batch: SemiBatch, seed: int = 8, **options: Any
) -> tuple[SemiStep, nn.Module, MixMatch]:
    """Returns of one step of a copy of the network its report, the copy, the method."""
    net = copy.deepcopy(net)
    method = make_method(
        net, copy.deepcopy(policy), **{"augmentations": len(batch.views), **options}
    )
    optimizer = optim.SGD(net.parameters(), lr=RATE)
    for p in net.parameters():
        p.grad = torch.ones_like(p)  # left over from before
    step = method.step(net, optimizer, batch, generator=torch.Generator().manual_seed(seed))
    return step, net, method


# ------------------------------------------------------------------------------ sharpen and guess


def test_sharpening_by_hand() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2], [0.0, 0.9, 0.1]], dtype=torch.float64)
    half = torch.tensor([[25 / 38, 9 / 38, 4 / 38], [0.0, 81 / 82, 1 / 82]], dtype=torch.float64)
    torch.testing.assert_close(sharpen(p, 0.5), half, rtol=1e-14, atol=0)
    torch.testing.assert_close(sharpen(p, 1.0), p, rtol=1e-14, atol=0)
    flat = torch.tensor([5**0.5, 3**0.5, 2**0.5], dtype=torch.float64)
    torch.testing.assert_close(sharpen(p, 2.0)[0], flat / flat.sum(), rtol=1e-14, atol=0)


def test_sharpening_reaches_one_hot_without_underflow() -> None:
    p = torch.full((1, 1000), 0.9e-3)
    p[0, 7] = 1 - 999 * 0.9e-3
    assert torch.equal(sharpen(p, 1e-3)[0], torch.eye(1000)[7])


@pytest.mark.parametrize(
    ("views", "guess"),
    [
        # the mean as it is, squared, and normalized
        ([(0.8, 0.2)], (16 / 17, 1 / 17)),
        ([(0.8, 0.2), (0.4, 0.6)], (9 / 13, 4 / 13)),
        ([(0.8, 0.2), (0.4, 0.6), (0.3, 0.7)], (0.5, 0.5)),
    ],
)
def test_guesses_by_hand(views: list[tuple[float, float]], guess: tuple[float, float]) -> None:
    # Logits are logarithms of probabilities, shifted: the mean is that of the probabilities.
    rows = [torch.tensor([v, v[::-1]], dtype=torch.float64).log() + 3 for v in views]
    expected = torch.tensor([guess, guess[::-1]], dtype=torch.float64)
    actual = guess_labels(nn.Identity(), rows, 0.5)
    torch.testing.assert_close(actual, expected, rtol=1e-14, atol=0)


# ------------------------------------------------------------------------------------- interleave


@pytest.mark.parametrize(
    ("sizes", "rows"),
    [
        ([3, 3], [[0, 4, 5], [3, 1, 2]]),
        ([4, 4, 4], [[0, 5, 10, 11], [4, 1, 6, 7], [8, 9, 2, 3]]),
        (
            [5, 5, 5, 5],
            [[0, 6, 12, 18, 19], [5, 1, 7, 8, 9], [10, 11, 2, 13, 14], [15, 16, 17, 3, 4]],
        ),
        # B ≠ U
        ([2, 4, 4], [[3, 8, 9], [2, 0, 4, 5], [6, 7, 1]]),
        ([5, 2], [[0, 1, 6], [5, 2, 3, 4]]),
    ],
)
def test_interleaving_by_hand(sizes: list[int], rows: list[list[int]]) -> None:
    assert [chunk.tolist() for chunk in interleaved(sizes)] == rows


@pytest.mark.parametrize("k", [1, 2, 3])
def test_interleaving_loses_no_row_and_leaves_no_pass_empty(k: int) -> None:
    for b in range(1, 7):
        for u in range(1, 7):
            rows = interleaved([b, *[u] * k])
            assert len(rows) == k + 1
            assert min(map(len, rows)) > 0
            assert sorted(torch.cat(rows).tolist()) == list(range(b + k * u))


@every_size
def test_passes_are_normalised_each_for_itself_and_the_first_alone_moves_statistics(
    k: int, b: int, u: int, toy: SimpleNamespace
) -> None:
    net = toy.make_net(norm=True)
    p, sizes = dict(net.named_parameters()), [b, *[u] * k]
    x = torch.randn(sum(sizes), 4, dtype=torch.float64)
    running = net.norm.running_mean.clone(), net.norm.running_var.clone()
    logits = interleaved_logits(net, x, sizes)
    for rows in interleaved(sizes):
        expected = toy.explicit_logits(net, p, x[rows], None)
        torch.testing.assert_close(logits[rows], expected, rtol=1e-10, atol=1e-12)
    first = x[interleaved(sizes)[0]] @ net.inp.weight.T + net.inp.bias
    for now, was, of_batch in zip(
        (net.norm.running_mean, net.norm.running_var),
        running,
        (first.mean(0), first.var(0)),
        strict=True,
    ):
        torch.testing.assert_close(now, (1 - MOMENTUM) * was + MOMENTUM * of_batch)
    assert int(net.norm.num_batches_tracked) == 1


# ------------------------------------------------------------------------------------------- loss


def test_the_loss_by_hand() -> None:
    # softmax rows (1/4, 3/4), (1/2, 1/2), (4/5, 1/5)
    logits = torch.tensor([[0, math.log(3)], [0, 0], [math.log(4), 0]], dtype=torch.float64)
    y = torch.tensor([[0, 1], [0.9, 0.1], [0.3, 0.7]], dtype=torch.float64)
    lam = torch.tensor([0.75, 1.0, 0.5], dtype=torch.float64)
    partner = torch.tensor([1, 2, 0])
    # mixed labels (0.225, 0.775), (0.9, 0.1), (0.15, 0.85)
    supervised = -(0.225 * math.log(0.25) + 0.775 * math.log(0.75))
    squared = (0.4**2 + 0.4**2 + 0.65**2 + 0.65**2) / 4
    actual = MixMatchLoss(1, 10.0).mixed(logits, y, lam, partner)
    assert float(actual) == pytest.approx(supervised + 10 * squared, rel=1e-14)
    # the validation batch: cross-entropy of all rows
    plain = -(math.log(0.75) + math.log(0.5) + math.log(0.8)) / 3
    given = MixMatchLoss(1, 10.0)(logits, torch.tensor([1, 0, 0]))
    assert float(given) == pytest.approx(plain, rel=1e-14)


# --------------------------------------------------------------------------------------- the step


def written_out(
    net: Any, batch: SemiBatch, toy: SimpleNamespace, lam: Tensor, partner: Tensor, weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss, and the parameters after plain descent, of MixMatch with T = 1/2 as formulas."""
    p = {name: q.detach().clone().requires_grad_() for name, q in net.named_parameters()}
    b, k = len(batch.labelled[0]), len(batch.views)
    sizes = [b, *[len(v) for v in batch.views]]
    fixed = {name: q.detach() for name, q in p.items()}
    mean = sum(torch.softmax(toy.explicit_logits(net, fixed, v, None), 1) for v in batch.views) / k
    guess = mean**2 / (mean**2).sum(1, keepdim=True)
    x = torch.cat([batch.labelled[0], *batch.views])
    y = torch.cat([toy.one_hot(batch.labelled[1]), *[guess] * k])
    share = lam.unsqueeze(1)
    x, y = share * x + (1 - share) * x[partner], share * y + (1 - share) * y[partner]
    logits = torch.zeros_like(y)
    for rows in interleaved(sizes):
        logits = logits.index_put((rows,), toy.explicit_logits(net, p, x[rows], None))
    probabilities = torch.softmax(logits, 1)
    supervised = -(y[:b] * torch.log(probabilities[:b])).sum() / b
    squared = ((probabilities[b:] - y[b:]) ** 2).sum() / y[b:].numel()
    loss = supervised + weight * squared
    gradients = torch.autograd.grad(loss, list(p.values()))
    stepped = {n: q.detach() - RATE * g for (n, q), g in zip(p.items(), gradients, strict=True)}
    return loss.detach(), stepped


@pytest.mark.parametrize("dominant", [True, False])
@every_size
def test_the_whole_step_as_formulas(
    k: int, b: int, u: int, dominant: bool, toy: SimpleNamespace
) -> None:
    net, batch = toy.make_net(norm=True), make_batch(k, b, u, toy)
    n = b + k * u
    stream = torch.Generator().manual_seed(8)
    lam = draw_beta(n, DECAY, generator=stream, dtype=torch.float64)
    partner = draw_partners(n, generator=stream)
    assert float(lam.min()) < 0.5
    lam = torch.where(lam < 0.5, 1 - lam, lam) if dominant else lam
    step, trained, _ = take(net, Beta(DECAY, per_sample=True), batch, dominant=dominant, weight=6.0)
    loss, parameters = written_out(net, batch, toy, lam, partner, 6.0)
    torch.testing.assert_close(step.loss, loss, rtol=1e-10, atol=0)
    for name, q in trained.named_parameters():
        torch.testing.assert_close(q.detach(), parameters[name], rtol=1e-9, atol=1e-11)
    assert int(trained.get_buffer("norm.num_batches_tracked")) == 1  # guesses move no statistics
    assert not step.loss.requires_grad
    assert step.samples == b + 2 * k * u
    assert step.pseudo_labels is None


def test_without_mixup_samples_and_labels_are_as_they_are(toy: SimpleNamespace) -> None:
    net, batch = toy.make_net(norm=True), make_batch(2, 5, 3, toy)
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    method = make_method(net, NoMix(), weight=6.0)
    expected, _ = written_out(net, batch, toy, torch.ones(11).double(), torch.arange(11), 6.0)
    step = method.step(net, optim.SGD(net.parameters(), lr=RATE), batch, generator=generator)
    torch.testing.assert_close(step.loss, expected, rtol=1e-10, atol=0)
    assert torch.equal(generator.get_state(), before)
    assert not method.needs_meta_validation


# -------------------------------------------------------------------------------------- learned λ

LEARNED: dict[str, Policy] = {
    "default": Learned(Reading(init_alpha=DECAY)),
    "paper": Learned(PAPER),
    "placebo": Learned(placebo=True),
    "scores": PersistentScores(),
}


@pytest.mark.parametrize("policy", LEARNED.values(), ids=LEARNED)
def test_mixmatch_with_the_lam_that_was_learned_has_the_same_loss_to_the_last_bit(
    policy: Policy, toy: SimpleNamespace
) -> None:
    net, batch = toy.make_net(norm=True, drop=True), make_batch(2, 5, 4, toy)
    torch.manual_seed(4)
    meta, meta_net, method = take(net, policy, batch)
    assert method.needs_meta_validation
    given = meta.interpolation
    assert given is not None
    assert given.change is not None
    assert float(given.change.abs().max()) > 0
    assert float(given.lam.min()) >= 0.5
    plain = Given(Interpolation(given.lam, given.partner, given.lam))
    torch.manual_seed(4)
    same, same_net, _ = take(net, plain, batch)
    assert torch.equal(same.loss, meta.loss)
    assert toy.identical(toy.snapshot(same_net), toy.snapshot(meta_net))
    assert meta.samples == same.samples + 5 + 2 * 4 + 6


@pytest.mark.parametrize(
    ("k", "b", "u", "norm"), [*((*sizes, False) for sizes in SIZES), (2, 5, 3, True)]
)
def test_the_hypergradient_is_that_of_mixmatchs_own_loss(
    k: int, b: int, u: int, norm: bool, toy: SimpleNamespace
) -> None:
    """Central differences over real steps of copies: mix, one step, validation cross-entropy."""
    net, batch = toy.make_net(norm=norm), make_batch(k, b, u, toy, progress=0.25)
    weight = 20.0 * 0.5  # half of the ramp
    step, _, _ = take(net, Learned(), batch, weight=20.0, ramp="linear", ramp_share=0.5)
    given = step.interpolation
    assert given is not None
    guess = guess_labels(net, batch.views, 0.5)
    x = torch.cat([batch.labelled[0], *batch.views])
    y = torch.cat([toy.one_hot(batch.labelled[1]), *[guess] * k])
    assert batch.val is not None
    x_val, y_val = batch.val[0], toy.one_hot(batch.val[1])

    def after(lam: Tensor) -> float:
        model, share = copy.deepcopy(net), lam.unsqueeze(1)
        optimizer = optim.SGD(model.parameters(), lr=RATE)
        target = share * y + (1 - share) * y[given.partner]
        probabilities = torch.softmax(model(share * x + (1 - share) * x[given.partner]), 1)
        supervised = -(target[:b] * torch.log(probabilities[:b])).sum(1).mean()
        squared = (target[b:] - probabilities[b:]).pow(2).mean()
        (supervised + weight * squared).backward()
        optimizer.step()
        return float(toy.explicit_loss(model(x_val), y_val).detach())

    truth = differences(after, given.lam_init, 1e-5)
    assert float(truth.abs().max()) > 1e-3
    torch.testing.assert_close(given.hypergradient, truth, rtol=1e-4, atol=2e-9)
    assert float(given.meta_loss) == pytest.approx(after(given.lam_init), rel=1e-12)


# ------------------------------------------------------------------------- what is handed to whom


def test_the_policy_sees_all_rows_with_guesses_and_the_place_of_each_image(
    toy: SimpleNamespace,
) -> None:
    net, batch = toy.make_net(), make_batch(2, 3, 2, toy)
    policy = Given(Interpolation(torch.ones(7).double(), torch.arange(7), torch.ones(7).double()))
    optimizer = optim.SGD(net.parameters(), lr=RATE)
    guess = guess_labels(net, batch.views, 0.25)
    method = make_method(net, policy, temperature=0.25, dominant=False)
    method.step(net, optimizer, batch, generator=torch.Generator())
    x, y = policy.asked["batch"]
    assert torch.equal(x, torch.cat([batch.labelled[0], *batch.views]))
    assert torch.equal(y, torch.cat([toy.one_hot(batch.labelled[1]), guess, guess]))
    assert not y.requires_grad
    assert policy.asked["indices"].tolist() == [100, 101, 102, 103, 104, 103, 104]
    assert not policy.asked["pairing"].dominant


def test_refusals(toy: SimpleNamespace) -> None:
    net, batch = toy.make_net(), make_batch(2, 3, 2, toy)
    with pytest.raises(ValueError, match="wants 3 views, got 2"):
        take(net, NoMix(), batch, augmentations=3)
    ones = torch.ones(7).double()
    boxes = Interpolation(ones, torch.arange(7), ones, mixing=AreaMixing())
    before = toy.snapshot(net)
    optimizer = optim.SGD(net.parameters(), lr=RATE)
    with pytest.raises(ValueError, match="can mix whole inputs only; got AreaMixing"):
        make_method(net, Given(boxes)).step(net, optimizer, batch, generator=torch.Generator())
    assert toy.identical(before, toy.snapshot(net))


@pytest.mark.parametrize("own", [{"carry": 0.9}, {"sigma": 0.3}])
def test_what_repeats_steps_in_one_pass_is_refused(own: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"repeats each step as one pass .*; leave them at 0"):
        TrainingConfig(
            "digits",
            "digits_cnn",
            LearnedBetaConfig(**own),
            semi=SemiSupervisedConfig("mixmatch", 20, weight=25.0, ema=0.8),
        )


@pytest.mark.parametrize("policy", [CutMix(), ScoresConfig(mixing="area")])
def test_boxes_are_refused_before_a_training_begins(policy: PolicyConfig) -> None:
    with pytest.raises(ValueError, match=f"policy {policy.kind} pastes boxes, and MixMatch"):
        TrainingConfig(
            "digits",
            "digits_cnn",
            policy,
            semi=SemiSupervisedConfig("mixmatch", 20, weight=25.0, ema=0.8),
        )
    few = SemiSupervisedConfig("pseudo-label", 20)  # it mixes in one pass
    assert TrainingConfig("digits", "digits_cnn", policy, semi=few).semi == few

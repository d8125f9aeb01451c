"""Weights of samples against unrolls by hand, in closed form, and what they are for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

import core
from core.meta.engines import ENGINES
from core.mixing.remedies import (
    EarlyLearning,
    GeneralizedCrossEntropy,
    LabelLoss,
    LogitAdjusted,
    Smoothed,
)
from core.mixing.weighting import sample_losses
from core.policies import (
    L2RWConfig,
    LearningToReweight,
    MetaWeightNet,
    MetaWeightNetConfig,
    PersistentWeights,
)
from core.training.config import TrainingConfig
from tests.support.losses import brier, focal

RATE, B = 0.3, 8


@pytest.fixture
def setup(toy: SimpleNamespace) -> SimpleNamespace:
    net = toy.make_net(norm=True, drop=True)
    optimizer = optim.SGD(net.parameters(), lr=RATE, momentum=0.9, weight_decay=0.1)
    toy.warm_up(net, optimizer)
    return SimpleNamespace(net=net, optimizer=optimizer, toy=toy, **vars(toy.make_data(B, 5)))


def losses_at(s: Any, theta: Any, batch: Any, mask: Tensor | None) -> Tensor:
    """Returns each sample's cross-entropy, from formulas alone."""
    x, y = batch
    logits = s.toy.explicit_logits(s.net, theta, x, mask)
    return torch.logsumexp(logits, 1) - logits[torch.arange(len(y)), y]


def unrolled(s: Any, weights: Tensor) -> Tensor:
    """d(meta loss)/d(weights) by an unroll of one plain step on (1/B) Σ w_i ℓ_i."""
    mask, val_mask = s.toy.masks(s.net, (B, 5))
    theta = {n: p.detach().clone().requires_grad_() for n, p in s.net.named_parameters()}
    weights = weights.detach().clone().requires_grad_()
    loss = (weights * losses_at(s, theta, s.batch, mask)).sum() / B
    slopes = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
    prime = {n: p - RATE * g for (n, p), g in zip(theta.items(), slopes, strict=True)}
    meta = losses_at(s, prime, s.val_batch, val_mask).mean()
    return torch.autograd.grad(meta, weights)[0]


@pytest.mark.parametrize("engine", ["auto", "unroll", "forward_reverse", "finite_difference"])
def test_learning_to_reweight_is_the_published_step(engine: Any, setup: Any) -> None:
    assert {"auto", *ENGINES} >= {engine}
    slope = unrolled(setup, torch.zeros(B, dtype=torch.float64))
    helpful = torch.where(slope < 0, -slope, 0)
    expected = B * helpful / helpful.sum()
    policy = LearningToReweight(engine=engine)
    given = policy(setup.net, setup.optimizer, setup.batch, setup.val_batch)
    tolerance = 1e-5 if engine == "finite_difference" else 1e-12
    assert given.weights is not None
    torch.testing.assert_close(given.weights, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(given.hypergradient, slope, rtol=tolerance, atol=tolerance)
    assert 0 < int((expected == 0).sum()) < B  # both kinds are there


def adam(p: list[Tensor], slopes: list[Tensor], m: list[Any], v: list[Any], t: int) -> None:
    """Step t (from 1) of Adam at 1e-3 with L2 decay 1e-4, in place (Kingma and Ba, Algorithm 1)."""
    for i, g in enumerate(slopes):
        g = g + 1e-4 * p[i]
        m[i] = 0.9 * m[i] + 0.1 * g
        v[i] = 0.999 * v[i] + 0.001 * g**2
        p[i] = p[i] - 1e-3 * (m[i] / (1 - 0.9**t)) / ((v[i] / (1 - 0.999**t)).sqrt() + 1e-8)


def test_meta_weight_net_is_algorithm_1_over_three_steps(setup: Any) -> None:
    s, policy = setup, MetaWeightNet(hidden=6)
    policy.network.double()
    p = [q.detach().clone() for q in policy.network.parameters()]
    m, v = [0.0] * 4, [0.0] * 4

    def net(losses: Tensor, p: list[Tensor]) -> Tensor:
        return torch.sigmoid(torch.relu(losses[:, None] @ p[0].T + p[1]) @ p[2].T + p[3])[:, 0]

    for t in (1, 2, 3):
        mask = s.toy.masks(s.net, (B, 5))[0]
        theta = {n: q.detach() for n, q in s.net.named_parameters()}
        losses = losses_at(s, theta, s.batch, mask)
        p = [q.detach().requires_grad_() for q in p]
        weights = net(losses, p)
        slopes = torch.autograd.grad(weights, p, unrolled(s, weights))
        p = [q.detach() for q in p]
        adam(p, list(slopes), m, v, t)
        given = policy(s.net, s.optimizer, s.batch, s.val_batch)
        torch.testing.assert_close(given.weights, net(losses, p), rtol=1e-10, atol=1e-12)
        core.mixed_step(s.net, s.optimizer, s.batch, given)
    for parameter, expected in zip(policy.network.parameters(), p, strict=True):
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-9, atol=1e-12)


def test_persistent_weights_are_moved_by_the_hypergradient_and_kept(setup: Any) -> None:
    """Five samples of which three come twice; s moves by 0.7 times d(meta loss)/ds over its RMS."""
    s, indices = setup, torch.tensor([4, 1, 0, 1, 2, 3, 0, 4])
    policy = PersistentWeights(reading=core.Reading(step_size=0.7), initial=-1.0)
    scores = torch.full((5,), -1.0, dtype=torch.float64)
    for _ in range(3):
        weights = torch.sigmoid(scores[indices])
        slope = unrolled(s, weights) * weights * (1 - weights)
        slope = slope / slope.square().mean().sqrt()
        for i, index in enumerate(indices.tolist()):
            scores[index] -= 0.7 * slope[i]
        given = policy(s.net, s.optimizer, s.batch, s.val_batch, indices=indices)
        torch.testing.assert_close(policy.scores.double(), scores, rtol=1e-5, atol=1e-5)
        expected = torch.sigmoid(scores[indices])
        torch.testing.assert_close(given.weights, expected, rtol=1e-5, atol=1e-5)
        core.mixed_step(s.net, s.optimizer, s.batch, given)


@pytest.mark.parametrize(
    "setting", [{"meta_steps": 5}, {"inner_step": "optimizer"}, {"projection": "clip"}]
)
def test_settings_of_a_reading_without_a_use_are_refused(setting: Any) -> None:
    with pytest.raises(ValueError, match=f"their reading needs {next(iter(setting))}="):
        PersistentWeights(reading=core.Reading(**setting))


def test_the_real_step_descends_the_weighted_mean(setup: Any) -> None:
    s = setup
    given = LearningToReweight()(s.net, s.optimizer, s.batch, s.val_batch)
    mask = s.toy.masks(s.net, (B,))[0]
    theta = {n: p.detach().clone().requires_grad_() for n, p in s.net.named_parameters()}
    loss = (given.weights * losses_at(s, theta, s.batch, mask)).sum() / B
    slopes = torch.autograd.grad(loss, list(theta.values()))
    result = core.mixed_step(s.net, s.optimizer, s.batch, given)
    torch.testing.assert_close(result.loss, loss.detach())
    for p, slope in zip(s.net.parameters(), slopes, strict=True):
        torch.testing.assert_close(p.grad, slope + 0.1 * 0)  # decay is the optimizer's own


def clusters(wrong: tuple[int, ...]) -> tuple[Any, Any]:
    """Six samples of two classes on two axes, the labels of some flipped, and a clean pair."""
    x, y = torch.eye(2).repeat(3, 1), torch.tensor([0, 1] * 3)
    y[list(wrong)] = 1 - y[list(wrong)]
    return (x, y), (torch.eye(2), torch.tensor([0, 1]))


@pytest.mark.parametrize("wrong", [(), (3,), (0, 3), (0, 1, 2, 3, 4, 5)])
def test_a_flipped_label_has_weight_zero(wrong: tuple[int, ...]) -> None:
    """At weights 0 a gradient is (1/2, −1/2) ⊗ x up to its sign, so all right ones count alike."""
    model = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = optim.SGD(model.parameters(), lr=0.1, weight_decay=0.5)
    batch, val_batch = clusters(wrong)
    given = LearningToReweight()(model, optimizer, batch, val_batch)
    right = 6 - len(wrong)
    expected = [0.0 if i in wrong else 6 / right for i in range(6)]
    assert given.weights is not None
    assert given.weights.tolist() == pytest.approx(expected, rel=1e-6)
    if not right:  # the loss is 0, and the weights decay: nothing is NaN
        assert float(core.mixed_step(model, optimizer, batch, given).loss) == 0
        assert bool((model.weight == 0).all())


@pytest.mark.parametrize("make", [LearningToReweight, MetaWeightNet, PersistentWeights])
def test_the_placebo_learns_alike_and_gives_the_weights_to_others(make: Any, setup: Any) -> None:
    """To the same samples at the same weights, over several stages."""
    weights, learned = [], []
    for placebo in (False, True):
        torch.manual_seed(0)
        policy, given = make(placebo), []
        for t in range(3):
            at = policy(
                setup.net, setup.optimizer, setup.batch, setup.val_batch,
                generator=torch.Generator().manual_seed(t), indices=torch.arange(B),
            )  # fmt: skip
            given.append(at.weights)
        weights.append(torch.stack(given))
        state = policy.state_dict()
        learned.append([*state.get("network", {}).values(), state.get("scores", torch.zeros(1))])
    assert not torch.equal(weights[0], weights[1])
    torch.testing.assert_close(weights[0].sort().values, weights[1].sort().values)
    torch.testing.assert_close(learned[0], learned[1], rtol=0, atol=0)


def test_a_batch_that_overflows_leaves_the_network_of_weights_as_it_was(setup: Any) -> None:
    """A loss scale skips its real step; the next batch has weights again."""
    policy, (x, y) = MetaWeightNet(hidden=6), setup.batch
    before = [p.detach().clone() for p in policy.network.parameters()]
    policy(setup.net, setup.optimizer, (torch.full_like(x, torch.nan), y), setup.val_batch)
    assert all(map(torch.equal, before, policy.network.parameters()))
    given = policy(setup.net, setup.optimizer, setup.batch, setup.val_batch)
    assert given.weights is not None
    assert bool(given.weights.isfinite().all())


def test_weights_fall_with_the_loss_where_high_losses_are_of_wrong_labels() -> None:
    """What Meta-Weight-Net is for: a network that has learned the truth is shown wrong labels."""
    torch.manual_seed(0)
    truth = torch.randn(3, 6)
    x, x_val = torch.randn(400, 6), torch.randn(60, 6)
    y, y_val = (x @ truth.T).argmax(1), (x_val @ truth.T).argmax(1)
    wrong = torch.rand(400) < 0.4
    y[wrong] = (y[wrong] + torch.randint(1, 3, (int(wrong.sum()),))) % 3
    model = nn.Linear(6, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(truth)
    optimizer, policy = optim.SGD(model.parameters(), lr=0.1), MetaWeightNet(lr=0.02)
    before = policy.metrics()
    for _ in range(60):
        rows = torch.randint(400, (64,))
        batch = x[rows], y[rows]
        core.mixed_step(model, optimizer, batch, policy(model, optimizer, batch, (x_val, y_val)))
    after = policy.metrics()
    assert after["weight_at_high_loss"] < 0.2 < before["weight_at_high_loss"]
    assert after["weight_at_high_loss"] < after["weight_at_low_loss"] - 0.1


# ------------------------------------------------------------------------------------- the losses


CLASS_WEIGHTS = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
LOSSES: dict[str, Any] = {
    "cross-entropy": core.soft_cross_entropy,
    "torch": nn.CrossEntropyLoss(),
    "functional": F.cross_entropy,
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.1),
    "brier": brier,
    "focal": core.IndexLoss(focal),
    "class weights": nn.CrossEntropyLoss(weight=CLASS_WEIGHTS),
    "ignored": nn.CrossEntropyLoss(ignore_index=1),
    "balanced": LabelLoss(weight=CLASS_WEIGHTS),
    "logit-adjusted": LogitAdjusted(torch.tensor([-0.5, -1.2, -2.0]), weight=CLASS_WEIGHTS),
    "smoothed labels": Smoothed(0.2),
    "gce": GeneralizedCrossEntropy(0.7),
    "elr": EarlyLearning(torch.full((B, 3), 0.3, dtype=torch.float64)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_each_sample_has_its_share_of_every_loss(name: str, setup: Any) -> None:
    loss, (_, y) = LOSSES[name], setup.batch
    logits = torch.randn(B, 3, dtype=torch.float64)
    partner, lam = setup.partner, setup.lam
    each = sample_losses(loss, logits, y, lam, partner)
    whole = core.mixing.mixed_loss(loss, logits, y, lam, partner)
    assert each.shape == (B,)
    torch.testing.assert_close(each.mean(), whole)
    # The share of sample 2 is what the loss loses where its own logits and labels alone are read.
    given = core.Interpolation(lam, partner, lam, weights=torch.eye(B)[2])
    torch.testing.assert_close(given.loss(logits, y, loss), each[2] / B)


@pytest.mark.parametrize("name", ["brier", "focal", "class weights", "logit-adjusted", "gce"])
def test_policies_follow_the_loss(name: str, setup: Any) -> None:
    s = setup
    one, two = (
        LearningToReweight(engine=engine)(s.net, s.optimizer, s.batch, s.val_batch, loss=loss)
        for engine, loss in (("auto", LOSSES[name]), ("unroll", LOSSES[name]))
    )
    torch.testing.assert_close(one.weights, two.weights)
    plain = LearningToReweight()(s.net, s.optimizer, s.batch, s.val_batch)
    assert not torch.allclose(one.weights, plain.weights)


def test_a_loss_that_tells_no_samples_apart_is_refused(setup: Any) -> None:
    class Whole:
        def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
            return core.soft_cross_entropy(logits, target)

        def mixed(self, logits: Tensor, y: Tensor, lam: Tensor, partner: Tensor) -> Tensor:
            return core.mixing.mixed_loss(core.soft_cross_entropy, logits, y, lam, partner)

    s = setup
    with pytest.raises(ValueError, match="Whole tells no loss of each sample, which weights need"):
        LearningToReweight()(s.net, s.optimizer, s.batch, s.val_batch, loss=Whole())


@pytest.mark.parametrize("policy", [L2RWConfig(), MetaWeightNetConfig()])
def test_few_labels_have_no_use_for_weights(policy: Any) -> None:
    from core.semi_supervised.config import SemiSupervisedConfig

    with pytest.raises(ValueError, match=f"policy {policy.kind} weights labeled samples"):
        TrainingConfig(
            "digits", "digits_cnn", policy, semi=SemiSupervisedConfig("pseudo-label", 20)
        )

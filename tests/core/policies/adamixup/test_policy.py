"""AdaMixUp on networks of a few weights, against formulas, replayed draws and differences."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn, optim

import core
from core.mixing.pairing import Pairing
from core.models import build_model
from core.policies.adamixup.interpolation import AdaMixUpInterpolation, first_half
from core.policies.adamixup.networks import HEAD_STD, truncated_normal
from tests.support.losses import brier

INPUTS, FEATURES, CLASSES = 4, 5, 3


class Tiny(nn.Module):
    """4 → tanh 5 → 3, cut where the models of the package are cut."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(INPUTS, FEATURES)
        self.classifier = nn.Linear(FEATURES, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        return torch.tanh(self.trunk(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def sgd(model: nn.Module, adamixup: core.AdaMixUp) -> optim.Optimizer:
    return optim.SGD([*model.parameters(), *adamixup.parameters()], lr=0.1)


def tiny(*, discriminator: bool = True, n: int = 7, soft: bool = False) -> SimpleNamespace:
    """Networks, optimizer and a batch in float64, heads far from where they start."""
    torch.manual_seed(3)
    model = Tiny().double()
    adamixup = core.AdaMixUp(Tiny().double(), discriminator=discriminator)
    for p in adamixup.parameters():
        nn.init.normal_(p, std=0.5)
    y = torch.softmax(torch.randn(n, CLASSES).double(), 1) if soft else torch.arange(n) % CLASSES
    batch = (torch.randn(n, INPUTS, dtype=torch.float64), y)
    return SimpleNamespace(model=model, ada=adamixup, optimizer=sgd(model, adamixup), batch=batch)


def ask(s: SimpleNamespace, seed: int = 8) -> AdaMixUpInterpolation:
    return s.ada(s.model, s.optimizer, s.batch, generator=torch.Generator().manual_seed(seed))


def replay(x: Tensor, h: int, seed: int = 8) -> SimpleNamespace:
    """Returns what `ask` draws for h mixed rows like those of x: partners, levels of both masks,
    u."""
    g = torch.Generator().manual_seed(seed)
    partner = torch.randperm(h, generator=g)
    levels = [torch.rand(x[:h].shape, generator=g, dtype=torch.float64) for _ in range(2)]
    return SimpleNamespace(
        partner=partner, levels=levels, u=torch.rand(h, generator=g, dtype=x.dtype)
    )


def outputs(discriminator: Any, bias: tuple[float, ...]) -> None:
    """Makes a network with a head give the same whatever it sees."""
    nn.init.zeros_(discriminator.output.weight)
    with torch.no_grad():
        discriminator.output.bias.copy_(torch.tensor(bias))


# --- λ -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "h"), [(2, 2), (3, 2), (4, 2), (5, 3), (7, 4), (8, 4), (128, 64)])
def test_half_of_the_batch_is_mixed_and_more_where_it_is_odd(n: int, h: int) -> None:
    s = tiny(n=n)
    assert first_half(n) == h
    interpolation = ask(s)
    assert interpolation.lam.shape == interpolation.partner.shape == (h,)
    assert sorted(interpolation.partner.tolist()) == list(range(h))


@pytest.mark.parametrize(("bias", "region"), [((90.0, 0, 0), 1.0), ((0, 0, 90.0), 0.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lambda_stays_in_the_unit_interval(bias: Any, region: float, dtype: torch.dtype) -> None:
    s = tiny(n=64)
    outputs(s.ada.policy_generator, bias)
    s.ada.networks.to(dtype)
    s.batch = (s.batch[0].to(dtype), s.batch[1])
    interpolation = ask(s)
    assert interpolation.lam.dtype == dtype
    torch.testing.assert_close(interpolation.lam, torch.full((32,), region, dtype=dtype))
    assert float(interpolation.lam.detach().max()) <= 1


class Given(nn.Module):
    """A policy generator that gives every pair the same (a, b, c), in float32."""

    def __init__(self, *abc: float) -> None:
        super().__init__()
        self.abc = nn.Parameter(torch.tensor(abc))

    def forward(self, x: Tensor) -> Tensor:
        return self.abc.expand(len(x), 3)


def test_rounding_takes_no_lambda_above_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A softmax whose a + u·b rounds to 1.0000001, at the largest u of float32."""
    s = tiny()
    s.batch = (s.batch[0].float(), s.batch[1])
    s.ada.policy_generator = Given(0.976569414138794, 0.02343066968023777, 3.63e-09)
    s.optimizer = sgd(s.model, s.ada)
    almost = torch.tensor(1 - 2**-24)
    assert float(torch.tensor(0.976569414138794) + almost * torch.tensor(0.02343066968023777)) > 1
    monkeypatch.setattr(torch, "rand", lambda size, dtype, **_: almost.to(dtype).expand(size))
    assert ask(s).lam.tolist() == [1.0] * 4


def test_a_lambda_of_one_itself_still_moves() -> None:
    """λ = a + u·b has the slopes 1, u and 0 up to its bound, in every release of torch."""
    s = tiny()
    given = Given(1.0, 0.0, 0.0)
    s.ada.policy_generator = given
    x = s.batch[0].float()
    lam, _ = s.ada.draw(x, torch.arange(len(x)).roll(1), torch.Generator().manual_seed(0))
    assert lam.tolist() == [1.0] * len(x)
    (slope,) = torch.autograd.grad(lam.sum(), given.abc)
    assert slope[0] == len(x)
    assert 0 < slope[1] < len(x)
    assert slope[2] == 0


def test_each_pair_has_a_region_of_its_own() -> None:
    s = tiny()
    interpolation = ask(s)
    drawn = replay(s.batch[0], 4)
    x, seen = s.batch[0][:4], []
    s.ada.policy_generator.backbone.register_forward_pre_hook(lambda _, given: seen.append(given))
    ask(s)
    # The generator's input, with masks by scipy's quantile function of the truncated normal.
    m1, m2 = (torch.from_numpy(stats.truncnorm.ppf(p.numpy(), -2, 2)) for p in drawn.levels)
    torch.testing.assert_close(seen[0][0], (m1 * x + m2 * x[drawn.partner]) / 2)
    # And λ from it, layer by layer.
    net = s.ada.policy_generator
    hidden = torch.tanh(seen[0][0] @ net.backbone.trunk.weight.T + net.backbone.trunk.bias)
    hundred = hidden @ net.backbone.classifier.weight.T + net.backbone.classifier.bias
    assert hundred.shape == (4, 100)
    z = (hundred @ net.output.weight.T + net.output.bias).detach().numpy()
    abc = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    expected = abc[:, 0] + drawn.u.numpy() * abc[:, 1]
    np.testing.assert_allclose(interpolation.lam.detach().numpy(), expected)
    assert len(np.unique(abc.round(6), axis=0)) == 4
    s.ada.metrics()
    ask(s)
    assert s.ada.metrics() == pytest.approx(
        {
            "region_low": abc[:, 0].mean(),
            "region_high": abc[:, :2].sum(axis=1).mean(),
            "region_spread": np.std(abc[:, 0] + abc[:, 1] / 2),
        }
    )


def test_the_masks_are_standard_normal_between_minus_two_and_two() -> None:
    x = torch.ones(200, 64)
    masks = truncated_normal(x, torch.Generator().manual_seed(0)).flatten()
    assert masks.dtype == torch.float32
    assert float(masks.abs().max()) <= 2
    assert stats.kstest(masks.double().numpy(), stats.truncnorm(-2, 2).cdf).pvalue > 0.01


def test_the_heads_start_small_and_the_regions_at_the_middle_third() -> None:
    torch.manual_seed(0)
    ada = core.AdaMixUp(build_model("digits_cnn", in_channels=1, num_classes=10, image_size=8))
    assert ada.discriminator is not None
    heads = [
        ada.policy_generator.backbone.classifier,
        ada.policy_generator.output,
        ada.discriminator.hidden,
        ada.discriminator.output,
    ]
    assert [(m.in_features, m.out_features) for m in heads] == [
        (64, 100),
        (100, 3),
        (64, 10),
        (10, 2),
    ]
    drawn = torch.cat([m.weight.detach().flatten() for m in heads]).numpy()
    assert stats.kstest(drawn, stats.norm(scale=HEAD_STD).cdf).pvalue > 0.01
    assert HEAD_STD == 1e-3
    assert not any(bool(m.bias.detach().any()) for m in heads)
    abc = ada.policy_generator(torch.randn(5, 1, 8, 8))
    torch.testing.assert_close(abc, torch.full((5, 3), 1 / 3), atol=1e-3, rtol=0)


# --- the loss ------------------------------------------------------------------------------------


def log_softmax(z: np.ndarray) -> np.ndarray:
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def by_hand(s: SimpleNamespace, lam: np.ndarray, partner: np.ndarray) -> tuple[float, float]:
    """Cross-entropy of the classifier, and of the discriminator (NaN if none), in NumPy."""
    x, y = s.batch[0].numpy(), s.batch[1].numpy()
    y = y if y.ndim == 2 else np.eye(CLASSES)[y]
    h = len(lam)
    weight = lam[:, None]
    mixed = weight * x[:h] + (1 - weight) * x[:h][partner]
    mixed_y = weight * y[:h] + (1 - weight) * y[:h][partner]
    w = {name: p.detach().numpy() for name, p in s.model.named_parameters()}

    def features(rows: np.ndarray) -> np.ndarray:
        return np.tanh(rows @ w["trunk.weight"].T + w["trunk.bias"])

    seen = np.concatenate([mixed, x[:h]])
    logits = features(seen) @ w["classifier.weight"].T + w["classifier.bias"]
    ours = -(np.concatenate([mixed_y, y[:h]]) * log_softmax(logits)).sum() / (2 * h)
    if s.ada.discriminator is None:
        return ours, math.nan
    d = {name: p.detach().numpy() for name, p in s.ada.discriminator.named_parameters()}
    rows = np.concatenate([x[h:], x[:h], mixed])
    truth = [1] * len(x) + [0] * h
    hidden = features(rows) @ d["hidden.weight"].T + d["hidden.bias"]
    stated = log_softmax(hidden @ d["output.weight"].T + d["output.bias"])
    return ours, -sum(stated[i, kind] for i, kind in enumerate(truth)) / len(rows)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("n", [2, 3, 6, 7])
@pytest.mark.parametrize("discriminator", [True, False])
def test_the_loss_is_that_of_both_networks(n: int, discriminator: bool, soft: bool) -> None:
    s = tiny(n=n, discriminator=discriminator, soft=soft)
    interpolation = ask(s)
    ours, intrusion = by_hand(s, interpolation.lam.detach().numpy(), interpolation.partner.numpy())
    expected = ours + (intrusion if discriminator else 0)
    objective = interpolation.objective(s.model, s.batch)
    torch.testing.assert_close(float(objective.detach()), expected)
    metrics = s.ada.metrics()
    if discriminator:
        assert metrics["discriminator_loss"] == pytest.approx(intrusion)
    else:
        assert set(metrics) == {"region_low", "region_high", "region_spread"}


def test_a_loss_of_soft_labels_sees_no_integers() -> None:
    """As many images unmixed as there are classes, so that integers would pass."""
    s = tiny(n=2 * CLASSES, discriminator=False)
    x, y = s.batch
    one_hot = F.one_hot(y, CLASSES).double()
    whole = ask(s).objective(s.model, (x, y), brier)
    torch.testing.assert_close(whole, ask(s).objective(s.model, (x, one_hot), brier))


def test_a_loss_of_integer_labels_is_mixed_by_its_values() -> None:
    s = tiny(discriminator=False)
    interpolation = ask(s)
    loss = core.IndexLoss(lambda f, y: F.cross_entropy(f, y, reduction="none"))
    torch.testing.assert_close(
        interpolation.objective(s.model, s.batch, loss), interpolation.objective(s.model, s.batch)
    )


def test_accuracy_is_the_mean_of_both_kinds() -> None:
    """Images of ±1: a mixed pair is seen to be mixed where the two differ in sign."""
    s = tiny(n=8)
    s.batch = (torch.tensor([1.0, -1, -1, 1, 1, -1, 1, 1]).double().view(8, 1), s.batch[1])
    s.model.features = lambda x: x.abs()
    s.ada = core.AdaMixUp(Tiny())
    generator = s.ada.policy_generator
    generator.backbone.trunk = nn.Linear(1, FEATURES)
    generator.double()
    head = s.ada.discriminator
    head.hidden, head.output = nn.Linear(1, 1).double(), nn.Linear(1, 2).double()
    with torch.no_grad():
        for layer, weight, bias in (
            (head.hidden, [[1.0]], [0.0]),
            (head.output, [[0.0], [100.0]], [0.0, -99.99]),
        ):
            layer.weight.copy_(torch.tensor(weight))
            layer.bias.copy_(torch.tensor(bias))
    s.model.trunk = nn.Linear(1, FEATURES).double()
    s.model.forward = lambda x: s.model.classifier(torch.tanh(s.model.trunk(x)))
    s.optimizer = sgd(s.model, s.ada)
    x = s.batch[0][:4, 0]
    for seed in range(3):
        interpolation = ask(s, seed)
        interpolation.objective(s.model, s.batch)
        seen = float((x != x[interpolation.partner]).double().mean())
        assert s.ada.metrics()["discriminator_accuracy"] == pytest.approx(50 * (1 + seen))


def gradients(s: SimpleNamespace) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, parameter and gradient of the objective, of all networks."""
    named = [*s.model.named_parameters(prefix="model"), *s.ada.networks.named_parameters()]
    values = torch.autograd.grad(
        ask(s).objective(s.model, s.batch), [p for _, p in named], allow_unused=True
    )
    for (name, p), g in zip(named, values, strict=True):
        assert g is not None, name
        yield name, p, g


class LabelsHeld:
    """Cross-entropy whose mixed labels stay those of the λ given here, whatever λ becomes."""

    def __init__(self, lam: Tensor) -> None:
        self.lam = lam.detach()

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        return core.soft_cross_entropy(logits, target)

    def mixed(self, logits: Tensor, y: Tensor, lam: Tensor, partner: Tensor) -> Tensor:
        return core.IndexLoss(lambda f, y: F.cross_entropy(f, y, reduction="none")).mixed(
            logits, y, self.lam, partner
        )


@pytest.mark.parametrize("discriminator", [True, False])
def test_every_weight_learns_by_all_but_the_mixed_labels(discriminator: bool) -> None:
    """Against central differences, with draws replayed and the labels held."""
    s = tiny(discriminator=discriminator)
    step, pick = 1e-5, np.random.default_rng(0)
    held = LabelsHeld(ask(s).lam)
    for name, p, gradient in gradients(s):
        for at in pick.choice(p.numel(), size=min(4, p.numel()), replace=False):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    p.view(-1)[at] += sign * step
                    values.append(float(ask(s).objective(s.model, s.batch, held)))
                    p.view(-1)[at] -= sign * step
            slope = (values[0] - values[1]) / (2 * step)
            assert float(gradient.view(-1)[at]) == pytest.approx(slope, rel=1e-4, abs=1e-9), name


def test_without_a_discriminator_there_is_none() -> None:
    s = tiny(discriminator=False)
    s.model.features = None  # never asked
    s.model.forward = lambda x: s.model.classifier(torch.tanh(s.model.trunk(x)))
    s.ada.step(s.model, s.optimizer, s.batch)


# --- the control ---------------------------------------------------------------------------------

QUANTILES = (0.1, 0.2, 0.6)


def held(**options: Any) -> SimpleNamespace:
    """As `tiny`, with λ drawn from a distribution that stands."""
    s = tiny(**options)
    s.ada = core.AdaMixUp(
        Tiny().double(), discriminator=options.get("discriminator", True), quantiles=QUANTILES
    )
    for p in s.ada.parameters():
        nn.init.normal_(p, std=0.5)
    s.optimizer = sgd(s.model, s.ada)
    return s


def test_a_region_that_is_not_learned_gives_its_quantiles() -> None:
    s = held()
    interpolation = ask(s)
    g = torch.Generator().manual_seed(8)
    assert torch.equal(interpolation.partner, torch.randperm(4, generator=g))
    levels = torch.rand(4, generator=g, dtype=torch.float64).numpy()
    np.testing.assert_allclose(interpolation.lam.numpy(), np.interp(levels, [0, 0.5, 1], QUANTILES))
    assert not interpolation.lam.requires_grad
    assert s.ada.metrics() == {}


@pytest.mark.parametrize("discriminator", [True, False])
def test_all_but_the_region_is_as_it_was(discriminator: bool) -> None:
    s, learning = held(discriminator=discriminator), tiny(discriminator=discriminator)
    interpolation = ask(s)
    ours, intrusion = by_hand(s, interpolation.lam.numpy(), interpolation.partner.numpy())
    expected = ours + (intrusion if discriminator else 0)
    torch.testing.assert_close(float(interpolation.objective(s.model, s.batch).detach()), expected)
    # The generator, which sees the four mixed pairs, is all that is not there.
    assert interpolation.extra_samples == ask(learning).extra_samples - 4
    saved = sum(p.numel() for p in learning.ada.policy_generator.parameters())
    counts = [sum(p.numel() for p in each.ada.parameters()) for each in (s, learning)]
    assert counts[0] == counts[1] - saved
    s.ada.load_state_dict(s.ada.state_dict())
    assert bool(torch.isfinite(s.ada.step(s.model, s.optimizer, s.batch).loss))


# --- the step ------------------------------------------------------------------------------------

NETWORKS = [("digits_cnn", 1, 8), ("cnn", 1, 9), ("preact_resnet18", 3, 8), ("wrn_28_2", 3, 8)]


@pytest.mark.parametrize(
    ("name", "channels", "size", "discriminator"),
    [*((*network, True) for network in NETWORKS), (*NETWORKS[2], False)],
)
def test_any_backbone_any_batch(name: str, channels: int, size: int, discriminator: bool) -> None:
    def network() -> Any:
        return build_model(
            name, in_channels=channels, num_classes=CLASSES, image_size=size, width=2
        )

    model, ada = network(), core.AdaMixUp(network(), discriminator=discriminator)
    # Heads as small as they start leave no trace of one step in float32.
    nn.init.normal_(ada.policy_generator.output.weight)
    nn.init.normal_(ada.policy_generator.backbone.classifier.weight)
    optimizer = sgd(model, ada)
    before = copy.deepcopy([model.state_dict(), ada.state_dict()])
    generator = torch.Generator().manual_seed(0)
    for n in (2, 3, 6, 6):
        batch = torch.randn(n, channels, size, size), torch.arange(n) % CLASSES
        result = ada.step(model, optimizer, batch, generator=generator)
        assert bool(torch.isfinite(result.loss))
        assert result.lam.shape == result.lam_init.shape == result.partner.shape == (first_half(n),)
        for value in vars(result).values():
            assert value is None or not value.requires_grad
    for old, new in zip(before, [model.state_dict(), ada.state_dict()], strict=True):
        stuck = [key for key in old if key.endswith("weight") and torch.equal(old[key], new[key])]
        assert stuck == []


def test_samples_are_those_sent_forward() -> None:
    for discriminator in (True, False):
        for n in (2, 3, 7, 8):
            s = tiny(n=n, discriminator=discriminator)
            rows: list[int] = []
            for trunk in (s.model.trunk, s.ada.policy_generator.backbone.trunk):
                trunk.register_forward_hook(
                    lambda _, given, __, rows=rows: rows.append(len(given[0]))
                )
            interpolation = ask(s)
            interpolation.objective(s.model, s.batch)
            assert sum(rows) == n + interpolation.extra_samples
            if n == 8:
                assert sum(rows) == (24 if discriminator else 12)


def test_only_the_classifiers_own_pass_moves_batchnorm() -> None:
    def network() -> Any:
        torch.manual_seed(5)
        return build_model("wrn_28_2", in_channels=1, num_classes=3, image_size=8, width=2)

    model, reference = network().double(), network().double()
    ada = core.AdaMixUp(network().double())
    batch = torch.randn(6, 1, 8, 8, dtype=torch.float64), torch.arange(6) % 3
    actual = ada(model, sgd(model, ada), batch, generator=torch.Generator().manual_seed(0))
    mixed = actual.mix_inputs(batch[0][:3]).detach()
    reference(torch.cat([mixed, batch[0][:3]]))
    core.mixed_step(model, sgd(model, ada), batch, actual)
    moved = dict(model.named_buffers())
    for name, value in reference.named_buffers():
        torch.testing.assert_close(moved[name], value)
    assert all(module.training for module in model.modules())


def test_metrics_are_means_since_they_were_last_taken() -> None:
    s = tiny()
    seen = []
    for seed in range(3):
        ask(s, seed).objective(s.model, s.batch)
        seen.append(s.ada.metrics())
    for seed in range(3):
        ask(s, seed).objective(s.model, s.batch)
    together = s.ada.metrics()
    assert together == {name: pytest.approx(sum(m[name] for m in seen) / 3) for name in seen[0]}
    assert set(together) == {
        "region_low", "region_high", "region_spread", "discriminator_loss",
        "discriminator_accuracy",
    }  # fmt: skip
    assert s.ada.metrics() == {}


def test_the_region_learns_under_no_grad_too() -> None:
    with torch.no_grad():
        s = tiny()
        s.ada.step(s.model, s.optimizer, s.batch, generator=torch.Generator().manual_seed(8))
    assert all(p.grad.abs().sum() > 0 for p in s.ada.policy_generator.parameters())
    with pytest.raises(ValueError, match="the training batch must be a pair"):
        s.ada.step(s.model, s.optimizer, None)


def test_autocast_clipping_and_micro_batches_reach_all_networks() -> None:
    s = tiny()
    s.model, s.ada.policy_generator = s.model.float(), s.ada.policy_generator.float()
    s.ada.discriminator.float()
    s.optimizer = sgd(s.model, s.ada)
    s.batch = (s.batch[0].float(), s.batch[1])
    for i in range(2):
        result = s.ada.step(
            s.model, s.optimizer, s.batch, autocast=torch.bfloat16,
            clip_grad_norm=1e-3, micro_batch=(i, 2),
        )  # fmt: skip
        assert result.lam.dtype == torch.float32
        norm = torch.stack(
            [p.grad.norm() for g in s.optimizer.param_groups for p in g["params"]]
        ).norm()
        assert (float(norm) <= 1.001e-3) == (i == 1)


def test_what_cannot_be_trained_is_refused() -> None:
    s = tiny()
    with pytest.raises(ValueError, match="two samples or more, got a batch of 1"):
        s.ada(s.model, s.optimizer, (s.batch[0][:1], s.batch[1][:1]))
    with pytest.raises(ValueError, match=r"does not hold .* \*adamixup.parameters\(\)"):
        s.ada(s.model, optim.SGD(s.model.parameters(), lr=0.1), s.batch)
    with pytest.raises(ValueError, match="LBFGS evaluates its gradient several times"):
        s.ada(s.model, optim.LBFGS([*s.model.parameters(), *s.ada.parameters()]), s.batch)
    for pairing in (Pairing(groups=(3, 4)), Pairing(dominant=True)):
        with pytest.raises(ValueError, match="pairs the first half of a batch"):
            s.ada(s.model, s.optimizer, s.batch, pairing=pairing)
    with pytest.raises(ValueError, match=r"AdaMixUp needs Sequential\.classifier"):
        core.AdaMixUp(nn.Sequential(nn.Linear(INPUTS, CLASSES)))
    maps = core.AdaMixUp(Tiny()).discriminator
    assert maps is not None
    with pytest.raises(ValueError, match=r"features\(x\) \[n, \d+\].* got \[2, 8, 3, 3\]: let"):
        maps(torch.zeros(2, 8, 3, 3))
    with pytest.raises(ValueError, match="quantiles must not fall"):
        core.AdaMixUp(Tiny(), quantiles=(0.5, 0.2))
    plain = nn.Linear(INPUTS, CLASSES).double()
    with pytest.raises(ValueError, match=r"needs Linear.features\(x\)"):
        s.ada(plain, sgd(plain, s.ada), s.batch)

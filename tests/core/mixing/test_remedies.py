"""Losses against long tails and wrong labels: values by hand, derivatives against training."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import core
from core.mixing.losses import mixed_loss, unmixed_loss
from core.mixing.remedies import (
    EarlyLearning,
    GeneralizedCrossEntropy,
    LabelLoss,
    LogitAdjusted,
    PredictionAverages,
    Smoothed,
    class_weights,
    log_prior,
)
from core.policies.adamixup.interpolation import AdaMixUpInterpolation, Record
from tests.support.differences import differences

LOGITS = torch.tensor([[1.0, 2.0, 5.0], [4.0, 4.0, 8.0]], dtype=torch.float64).log()
"""Probabilities 1/8, 1/4, 5/8 and 1/4, 1/4, 1/2."""
Y, PARTNER = torch.tensor([0, 2]), torch.tensor([1, 0])
LAM = torch.tensor([0.75, 0.4], dtype=torch.float64)
WEIGHT = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)
PRIOR = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
AVERAGES = torch.tensor([[0.2, 0.3, 0.1], [0.0, 0.4, 0.4]], dtype=torch.float64)

VALUES: dict[str, tuple[LabelLoss, float, float]] = {
    "weighted": (LabelLoss(weight=WEIGHT), 1.6463125, 1.8021827),
    "adjusted": (LogitAdjusted(PRIOR), 1.1132619, 1.2668484),
    "adjusted twice": (LogitAdjusted(PRIOR, 2.0), 0.9773061, 1.2912435),
    "smoothed": (Smoothed(0.3), 1.3452149, 1.3404798),
    "smoothed and weighted": (Smoothed(0.3, weight=WEIGHT), 1.4924398, 1.6729533),
    "gce": (GeneralizedCrossEntropy(q=0.5), 0.9543499, 0.9393398),
    "gce of 1": (GeneralizedCrossEntropy(q=1.0), 0.7, 0.6875),
    "gce near 0": (GeneralizedCrossEntropy(q=1e-9), 1.3930588, 1.3862944),
    "elr": (EarlyLearning(AVERAGES), 0.6583231, 0.5852809),
}
"""A loss, its value at LAM, and its value where nothing is mixed, worked out on paper."""


@pytest.mark.parametrize("name", VALUES)
def test_values_by_hand(name: str) -> None:
    loss, mixed, plain = VALUES[name]
    assert float(mixed_loss(loss, LOGITS, Y, LAM, PARTNER)) == pytest.approx(mixed, abs=1e-7)
    whole = torch.ones(2, dtype=torch.float64)
    assert float(mixed_loss(loss, LOGITS, Y, whole, PARTNER)) == pytest.approx(plain, abs=1e-7)
    rows = torch.eye(3, dtype=torch.float64)[Y]
    assert float(mixed_loss(loss, LOGITS, rows, LAM, PARTNER)) == pytest.approx(mixed, abs=1e-7)


@pytest.mark.parametrize("name", VALUES)
def test_the_validation_loss_is_cross_entropy(name: str) -> None:
    # (log 8 + log 2) / 2
    assert float(unmixed_loss(VALUES[name][0], LOGITS, Y)) == pytest.approx(1.3862944, abs=1e-7)


def test_adamixup_trains_its_unmixed_images_by_the_remedy_too() -> None:
    loss, _, plain = VALUES["adjusted"]
    whole = torch.ones(2, dtype=torch.float64)
    given = AdaMixUpInterpolation(whole, PARTNER, whole, discriminator=None, record=Record())
    assert float(given.objective(nn.Identity(), (LOGITS, Y), loss)) == pytest.approx(plain)


def test_an_adjustment_moves_the_validation_loss_alone() -> None:
    # f − 2 log π: odds 1/.25, 2/.09, 5/.04 and 4/.25, 4/.09, 8/.04
    loss = LabelLoss(adjustment=2 * PRIOR)
    expected = (3.6324561 + 0.2640722) / 2
    assert float(unmixed_loss(loss, LOGITS, Y)) == pytest.approx(expected, abs=1e-7)
    assert float(mixed_loss(loss, LOGITS, Y, LAM, PARTNER)) == pytest.approx(1.3930588, abs=1e-7)


@pytest.mark.parametrize("loss", [GeneralizedCrossEntropy(), EarlyLearning(AVERAGES)])
def test_a_certain_network_gives_finite_numbers(loss: LabelLoss) -> None:
    logits = torch.tensor([[0.0, 500.0, 0.0], [500.0, 0.0, 0.0]], requires_grad=True)
    lam = LAM.float().requires_grad_()
    if isinstance(loss, EarlyLearning):
        loss = EarlyLearning(AVERAGES.float())
    slopes = torch.autograd.grad(loss.mixed(logits, Y, lam, PARTNER), (logits, lam))
    assert all(bool(slope.isfinite().all()) for slope in slopes)


def test_priors_and_weights_of_a_long_tail() -> None:
    labels = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    torch.testing.assert_close(log_prior(labels, 3), PRIOR.float())
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 2])
    assert class_weights(labels, 3, "none") is None
    inverse = class_weights(labels, 3, "inverse")
    torch.testing.assert_close(inverse, torch.tensor([12 / 7, 6 / 7, 3 / 7]))
    # Effective numbers 1 and (1 − 0.9999^5000) · 10⁴ = 3934.845
    effective = class_weights(torch.tensor([0] + [1] * 5000), 2, "effective")
    torch.testing.assert_close(effective, torch.tensor([1.9994919, 5.0815e-4]), rtol=1e-5, atol=0)


def test_a_class_without_a_label_counts_as_if_it_had_one() -> None:
    labels = torch.tensor([0, 0, 0])
    torch.testing.assert_close(log_prior(labels, 2).exp(), torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(class_weights(labels, 2, "inverse"), torch.tensor([0.5, 1.5]))


def test_predictions_are_averaged_by_image() -> None:
    averages = PredictionAverages(4, 3, momentum=0.7)
    half = torch.tensor([[0.5, 0.25, 0.25]])
    torch.testing.assert_close(averages.move(torch.tensor([2]), half.log()), 0.3 * half)
    torch.testing.assert_close(averages.move(torch.tensor([2]), half.log()), 0.51 * half)
    other = torch.tensor([[0.1, 0.1, 0.8]])
    expected = torch.tensor([[0.7 * 0.255 + 0.03, 0.7 * 0.1275 + 0.03, 0.7 * 0.1275 + 0.24]])
    torch.testing.assert_close(averages.move(torch.tensor([2]), other.log()), expected)
    assert averages.values[[0, 1, 3]].abs().sum() == 0
    overflow = torch.tensor([[torch.inf, 0.0, 0.0], [0.0, 0.0, 0.0]])
    kept = averages.move(torch.tensor([2, 3]), overflow)  # nothing of image 2
    torch.testing.assert_close(kept, torch.cat([expected, torch.full((1, 3), 0.1)]))


N = 5
MIXED: dict[str, tuple[Callable[[], LabelLoss], Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "weighted": (
        lambda: LabelLoss(weight=WEIGHT),
        lambda p, t, a: -(t * WEIGHT * p.log()).sum() / (t * WEIGHT).sum(),
    ),
    "logit-adjusted": (
        lambda: LogitAdjusted(PRIOR, 1.5, adjustment=0.5 * PRIOR),
        lambda p, t, a: -(t * _normal(p * PRIOR.exp() ** 1.5).log()).sum() / N,
    ),
    "smoothed": (
        lambda: Smoothed(epsilon=0.2),
        lambda p, t, a: -((0.8 * t + 0.2 / 3) * p.log()).sum() / N,
    ),
    "gce": (
        lambda: GeneralizedCrossEntropy(q=0.7),
        lambda p, t, a: (t * (1 - p**0.7) / 0.7).sum() / N,
    ),
    "elr": (
        lambda: EarlyLearning(_averages(), 2.0),
        lambda p, t, a: (2 * (1 - (a * p).sum(1)).log() - (t * p.log()).sum(1)).sum() / N,
    ),
}
"""A loss, and the same of probabilities p, mixed labels t and mixed averages a."""


def _normal(p: Tensor) -> Tensor:
    return p / p.sum(1, keepdim=True)


def _averages() -> Tensor:
    return _normal(torch.arange(1.0, 16.0, dtype=torch.float64).sqrt().view(N, 3)) * 0.8


@pytest.mark.parametrize("name", MIXED)
def test_the_hypergradient_is_that_of_plain_training(name: str) -> None:
    make, by_hand = MIXED[name]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, x_val = torch.randn(N, 4).double(), torch.randn(3, 4).double()
    y, y_val, partner = torch.tensor([0, 1, 2, 1, 0]), torch.tensor([2, 0, 1]), torch.arange(N)
    partner, lam, loss = partner.roll(1), torch.rand(N).double(), make()

    def validation(lam: Tensor) -> float:
        stepped = copy.deepcopy(model)
        optimizer = torch.optim.SGD(stepped.parameters(), lr=0.3)
        share, rows = lam[:, None], torch.eye(3, dtype=torch.float64)[y]
        mixed, t, a = (share * v + (1 - share) * v[partner] for v in (x, rows, _averages()))
        by_hand(stepped(mixed).softmax(1), t, a).backward()
        optimizer.step()
        logits = stepped(x_val)
        if loss.adjustment is not None:
            logits = logits - loss.adjustment
        return float(-logits.detach().log_softmax(1)[torch.arange(3), y_val].mean())

    truth = differences(validation, lam, 1e-6)
    actual = core.hypergradient(model, (x, y), (x_val, y_val), lam, partner, lr=0.3, loss=loss)
    assert float(truth.norm()) > 1e-4
    assert float((actual - truth).norm() / truth.norm()) < 1e-6


REMEDIES = [loss for loss, _, _ in VALUES.values()]


@pytest.mark.parametrize("loss", REMEDIES, ids=list(VALUES))
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([0, 3]), r"labels must lie in \[0, 2\], got 3"),
        (torch.tensor([-100, 0]), r"labels must lie in \[0, 2\], got -100"),
        (torch.zeros(2, 1), r"soft labels must have shape \[B, 3\]"),
        (torch.zeros(2, 4), r"soft labels must have shape \[B, 3\]"),
    ],
    ids=["beyond the classes", "ignored", "one column", "another number of classes"],
)
def test_validation_labels_that_do_not_fit_are_refused(
    loss: LabelLoss, target: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        loss(LOGITS, target)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogitAdjusted(PRIOR, -1.0), "tau must be finite and at least 0, got -1.0"),
        (lambda: LogitAdjusted(PRIOR, float("nan")), "tau must be finite"),
        (lambda: Smoothed(1.5), r"epsilon must be in \[0, 1\]"),
        (lambda: GeneralizedCrossEntropy(q=0.0), r"q must be in \(0, 1\]"),
        (lambda: GeneralizedCrossEntropy(q=2.0), r"q must be in \(0, 1\]"),
        (lambda: EarlyLearning(AVERAGES, -1.0), "strength must be finite"),
        (lambda: PredictionAverages(2, 3, momentum=2.0), r"momentum must be in \[0, 1\)"),
        (lambda: class_weights(Y, 3, "foo"), "kind must be one of none, inverse, effective"),  # type: ignore[arg-type]
    ],
    ids=range(8),
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

"""Remedies in a training: what they descend, draw, adjust and keep."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from core.data import DeviceImages, Transform, balanced_draws
from core.evaluation import evaluate, predict
from core.mixing.batch import soft_cross_entropy
from core.policies import AdaMixUpConfig, LearnedBetaConfig, NoMix, ScoresConfig
from core.semi_supervised import SemiSupervisedConfig
from core.training.config import TrainingConfig
from core.training.fit import fit
from core.training.objective import Objective
from core.training.prepared_data import augmentation, draw_labels, prepare_data
from tests.support.digit_trainings import digits, numbers

CONFIG = TrainingConfig(
    "digits", "digits_cnn", NoMix(), train_size=40, meta_size=20, epochs=2, batch_size=20,
    lr=0.05, flip=False,
)  # fmt: skip
CPU = torch.device("cpu")


def objective(labels: list[int], classes: int, **settings: Any) -> Objective:
    return Objective(replace(CONFIG, **settings), torch.tensor(labels), classes, CPU)


def test_without_a_remedy_the_loss_is_cross_entropy_itself() -> None:
    plain = objective([0, 1], 2)
    assert plain.loss(nn.Linear(1, 2), torch.zeros(2, 1), torch.arange(2)) is soft_cross_entropy
    assert (plain.adjustment, plain.passes, plain.state_dict()) == (None, 0, {})


def test_priors_are_those_of_the_labels_that_are_trained_with() -> None:
    config = replace(CONFIG, imbalance=10.0, label_noise=0.2, train_size=400)
    data = prepare_data(config, digits(), "cpu")
    counts = torch.bincount(data.train.labels)
    assert counts.tolist() != torch.bincount(draw_labels(config, digits()).true).tolist()
    actual = Objective(replace(config, logit_adjustment=2.0), data.train.labels, 10, CPU).adjustment
    assert actual is not None
    expected = [(count / len(data.train)) ** 2 for count in counts.tolist()]
    assert actual.exp().tolist() == pytest.approx(expected, rel=1e-5)


def test_classes_are_drawn_alike_and_so_are_the_images_of_one() -> None:
    labels = torch.tensor([0] * 8700 + [3] * 290 + [7] * 10)[torch.randperm(9000)]
    drawn = balanced_draws(labels, torch.Generator().manual_seed(0))
    counts = torch.bincount(labels[drawn])
    assert counts.sum() == 9000
    for label in (0, 3, 7):  # 3000, standard deviation 44.7
        assert abs(int(counts[label]) - 3000) < 180
    times = torch.bincount(drawn, minlength=9000)[labels == 7]  # 300 each, standard deviation 17
    assert times.min() > 230
    assert times.max() < 370


def test_early_learning_asks_for_unmixed_predictions_and_changes_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    elr, x, rows = objective([0] * 9, 3, loss="elr"), torch.randn(4, 4), torch.tensor([8, 0, 3, 2])
    stream = torch.get_rng_state()
    loss = elr.loss(model, x, rows)
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # The step draws the same masks, so an unmixed batch has the predictions that were averaged.
    p = model(x).softmax(1).detach().clamp(1e-4, 1 - 1e-4)
    torch.testing.assert_close(loss.averages, 0.3 * p / p.sum(1, keepdim=True))  # type: ignore[attr-defined]
    again = objective([0] * 9, 3, loss="elr")
    again.load_state_dict(elr.state_dict())
    remaining = again.state_dict()["averages"]
    torch.testing.assert_close(remaining[rows], 0.3 * p / p.sum(1, keepdim=True))
    assert float(remaining[[1, 4, 5, 6, 7]].abs().sum()) == 0


class Constant(nn.Module):
    """Logits 2, 1, 0 of any image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([2.0, 1.0, 0.0]).expand(len(x), 3)


def test_predictions_are_adjusted() -> None:
    labels = torch.tensor([0, 1, 1, 2]).numpy()
    images = DeviceImages(torch.zeros(4, 1, 2, 2, dtype=torch.uint8).numpy(), labels)
    transform = Transform((0.5,), (0.5,))
    assert evaluate(Constant(), images, transform).error == 75
    adjusted = {"adjustment": torch.tensor([3.0, 0.0, 0.0])}
    assert evaluate(Constant(), images, transform, **adjusted).error == 50  # logits −1, 1, 0
    p = predict(Constant(), images, transform, **adjusted)[0]
    assert p.tolist() == pytest.approx([0.0900306, 0.6652410, 0.2447285], rel=1e-6)


@pytest.mark.parametrize(
    "remedy",
    [
        {"loss": "logit-adjusted", "imbalance": 10.0},
        {"loss": "smoothed"},
        {"loss": "gce", "loss_strength": 0.3},
        {"loss": "elr"},
        {"class_weights": "effective", "imbalance": 10.0},
        {"sampling": "balanced", "imbalance": 10.0},
        {"logit_adjustment": 1.0, "imbalance": 10.0},
    ],
    ids=str,
)
def test_a_remedy_changes_the_training_and_what_scores_learn(remedy: dict[str, Any]) -> None:
    base = replace(CONFIG, policy=ScoresConfig(), epochs=1, imbalance=remedy.get("imbalance", 1.0))
    plain, result = (fit(c, source=digits()) for c in (base, replace(base, **remedy)))
    assert numbers(plain)["history"][0]["val_loss"] != numbers(result)["history"][0]["val_loss"]
    assert plain.scores != result.scores
    passes = plain.samples_seen - len(plain.scores or []) if remedy.get("loss") == "elr" else None
    if passes is not None:
        assert result.samples_seen == plain.samples_seen + len(plain.scores or [])


@pytest.mark.parametrize("size", [14, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_trivial_augment_draws_for_each_image(size: int, channels: int) -> None:
    name = "torchvision.transforms.v2:TrivialAugmentWide"
    augment = augmentation(replace(CONFIG, augment=name))
    assert augment is not None
    transform = Transform((0.5,) * channels, (0.5,) * channels, augment=augment)
    image = torch.randint(256, (1, channels, size, size), dtype=torch.uint8)
    x = image.expand(64, -1, -1, -1)
    first, again, other = (transform.train(x, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert first.shape == x.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first.flatten(1).unique(dim=0)) > 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "focal"}, "loss must be one of cross-entropy, logit-adjusted.*got 'focal'"),
        ({"sampling": "sqrt"}, "sampling must be one of uniform, balanced; got 'sqrt'"),
        ({"class_weights": "sqrt"}, "class_weights must be one of none, inverse, effective; got"),
        ({"loss_strength": 1.0}, "loss_strength=1.0 has no use with loss=cross-entropy; leave"),
        ({"loss": "gce", "loss_strength": 0.0}, "q of .* must be above 0 and at most 1, got 0.0"),
        ({"loss": "gce", "loss_strength": 1.1}, "must be above 0 and at most 1, got 1.1"),
        ({"loss": "smoothed", "loss_strength": -0.1}, "ε .* must be at least 0 and at most 1, got"),
        ({"loss": "elr", "loss_strength": float("inf")}, "at least 0 and finite, got inf"),
        ({"loss": "elr", "loss_strength": float("nan")}, "at least 0 and finite, got nan"),
        ({"logit_adjustment": -1.0}, "logit_adjustment must be finite and at least 0, got -1.0"),
        ({"logit_adjustment": float("nan")}, "must be finite and at least 0, got nan"),
        ({"loss": "elr", "policy": AdaMixUpConfig()}, "adamixup mixes half .* choose another loss"),
        (
            {"logit_adjustment": 1.0, "policy": LearnedBetaConfig(objective="brier")},
            "learned-beta judges validation images by objective=brier, which logit_adjustment",
        ),
        ({"labels": "f", "label_noise": 0.1}, "label_noise=0.1 would make labels wrong that"),
        ({"meta_noise": True}, "meta_noise has no use without label_noise or labels"),
        (
            {"meta_noise": True, "label_noise": 0.1, "checked": "f"},
            "meta_noise makes wrong labels of the images that checked=f names",
        ),
        (
            {"semi": SemiSupervisedConfig("pseudo-label", 20), "loss": "gce"},
            "semi-supervised training has no use for loss='gce'; leave it out",
        ),
    ],
)
def test_settings_without_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **settings)

"""The settings of the semi-supervised studies, against the papers' and codes' own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from core.data import DATASETS, source_from_arrays
from core.models import MODELS
from core.semi_supervised.config import SemiSupervisedConfig
from hpo.study import few_label_presets
from hpo.study.few_label_presets import METHODS, PRESETS, method, training

ALL = [*DATASETS, "folder:/data/birds"]


def semi(name: str, dataset: str, preset: str, values: int = 3072) -> SemiSupervisedConfig:
    actual = method(name, training(dataset, preset), preset, values)
    return SemiSupervisedConfig(labelled=1000, **actual.semi)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dataset", ALL)
def test_every_method_of_every_preset_makes_a_training(dataset: str, preset: str) -> None:
    base = training(dataset, preset)
    assert base.model in MODELS
    assert base.semi is not None
    assert base.semi.kind == "supervised"
    for name, kind in METHODS.items():
        actual = method(name, base, preset, 3072)
        ours = replace(base, **actual.training, semi=semi(name, dataset, preset))
        assert ours.semi is not None
        assert ours.semi.kind == kind


def test_paper_is_the_papers_own_setting() -> None:
    """Section IV-B: 200 epochs of SGD 0.1, divided by 10 at 60, 120, 180; σ0 .95, σd .05, K 30."""
    base = training("cifar10", "paper")
    expected: dict[str, Any] = {
        "model": "wrn_28_2",
        "batch_size": 100,
        "epochs": 200,
        "optimizer": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "schedule": "step",
        "milestones": (60, 120, 180),
        "lr_decay": 0.1,
        "flip": True,
        "translate": 2,
        "meta_size": 500,
        "train_size": None,
        "normalisation": "standard",
    }
    assert {name: getattr(base, name) for name in expected} == expected
    apl, fixed = (semi(name, "cifar10", "paper") for name in ("apl", "pseudo-label"))
    assert (apl.threshold, apl.threshold_step, apl.threshold_period) == (0.95, 0.05, 30)
    assert apl == replace(fixed, threshold_step=0.05)
    assert (fixed.weight, fixed.ramp) == (1.0, "none")
    assert all(not method(name, base, "paper", 3072).training for name in METHODS)


def test_oliver_has_the_rates_and_weights_of_its_code() -> None:
    rates = {
        "supervised-only": 3e-3,
        "pi-model": 3e-4,
        "mean-teacher": 4e-4,
        "vat": 3e-3,
        "vat-em": 3e-3,
        "pseudo-label": 3e-4,
    }
    base = training("cifar10", "oliver")
    assert {n: method(n, base, "oliver", 3072).training["lr"] for n in rates} == rates
    weights = {n: semi(n, "cifar10", "oliver").weight for n in rates if n != "supervised-only"}
    assert weights == {
        "pi-model": 20, "mean-teacher": 8, "vat": 0.3, "vat-em": 0.3, "pseudo-label": 1,
    }  # fmt: skip
    for name in weights:
        actual = semi(name, "cifar10", "oliver")
        assert (actual.ramp, actual.ramp_share) == ("sigmoid", 200_000 / 500_000)
    assert semi("mean-teacher", "cifar10", "oliver").ema == 0.95
    assert semi("vat-em", "cifar10", "oliver").entropy == 0.1
    assert semi("vat", "cifar10", "oliver").epsilon == 6.0
    assert semi("vat", "svhn", "oliver").epsilon == 1.0
    assert base.milestones == (round(base.epochs * 400_000 / 500_000),)
    assert (base.optimizer, base.lr_decay, base.weight_decay) == ("adam", 0.2, 0.0)
    assert (base.normalisation, base.padding, base.translate) == ("gcn-zca", "reflect", 2)
    assert (base.noise, base.flip) == (0.15, True)
    svhn = training("svhn", "oliver")
    assert (svhn.normalisation, svhn.noise, svhn.flip) == ("unit", 0.0, False)
    # 500,000 steps of 50 labelled and 50 unlabelled images, of the 45,500 that 4,000 labels leave.
    assert (base.batch_size, svhn.batch_size) == (50, 50)
    assert base.epochs * 910 == pytest.approx(500_000, rel=0.01)
    assert svhn.epochs * 1434 == pytest.approx(500_000, rel=0.01)


def test_mixmatch_has_the_settings_of_its_code() -> None:
    base = training("cifar10", "mixmatch")
    assert (base.optimizer, base.lr, base.weight_decay) == ("adamw", 2e-3, 0.02)
    assert (base.batch_size, base.schedule, base.normalisation) == (64, "constant", "unit")
    assert (base.padding, base.translate, base.flip) == ("reflect", 4, True)
    actual = semi("mixmatch", "cifar10", "mixmatch")
    assert (actual.weight, actual.ema, actual.temperature) == (75.0, 0.999, 0.5)
    assert (actual.augmentations, actual.dominant) == (2, True)
    assert (actual.ramp, actual.ramp_share) == ("linear", 1 / 64)
    assert semi("mixmatch", "svhn", "mixmatch").weight == 250.0
    assert semi("mean-teacher", "cifar10", "mixmatch").weight == 50.0
    assert semi("pi-model", "cifar10", "mixmatch").weight == 10.0
    # 2^16 kimg of 64 unlabelled images.
    assert base.epochs * (45_500 // 64) == pytest.approx(1024 * 1024, rel=0.01)
    # Among Oliver's methods it keeps its own optimiser.
    ours = method("mixmatch", training("cifar10", "oliver"), "oliver", 3072).training
    assert (ours["optimizer"], ours["lr"], ours["weight_decay"]) == ("adamw", 2e-3, 0.02)


@pytest.mark.parametrize(("values", "epsilon"), [(3072, 6.05), (196, 1.53), (768, 3.02)])
def test_vat_perturbs_by_the_same_share_of_an_image_of_any_size(
    values: int, epsilon: float
) -> None:
    """6 of the norm 55 that Oliver's images have; ours have √values."""
    assert semi("vat", "cifar10", "paper", values).epsilon == epsilon


@pytest.mark.parametrize("preset", ["paper", "oliver"])
def test_a_shorter_training_does_everything_at_the_same_share(preset: str) -> None:
    whole = training("cifar10", preset)
    short = training("cifar10", preset, epochs=whole.epochs // 10)
    assert short.epochs == whole.epochs // 10
    assert short.milestones == tuple(m // 10 for m in whole.milestones)
    assert method("apl", whole, preset, 3072).semi["threshold_period"] == round(0.15 * whole.epochs)
    actual = method("apl", short, preset, 3072).semi["threshold_period"]
    assert actual == pytest.approx(0.015 * whole.epochs, abs=0.5)
    assert method("apl", replace(short, epochs=2), preset, 3072).semi["threshold_period"] == 1


@pytest.mark.parametrize("preset", ["quick", "smoke"])
@pytest.mark.parametrize("dataset", ["digits", "mnist", "svhn"])
def test_numerals_are_not_flipped(dataset: str, preset: str) -> None:
    assert not training(dataset, preset).flip
    assert training("fashion_mnist", preset).flip


@pytest.mark.parametrize(("classes", "each", "labels"), [(10, 5000, 1000), (3, 100, 30), (7, 3, 7)])
def test_a_small_data_set_has_fewer_labels(classes: int, each: int, labels: int) -> None:
    truth = np.repeat(np.arange(classes), each)
    images = np.zeros((len(truth), 4, 4), np.uint8)
    source = source_from_arrays("mine", images, truth, images[:2], truth[:2])
    actual = few_label_presets.fit_to(training("mine", "quick"), source)
    assert actual.semi is not None
    assert actual.semi.labelled == labels
    assert actual.meta_size <= max(classes, len(truth) // 5)


def test_an_unknown_preset_is_named_with_those_there_are() -> None:
    with pytest.raises(
        ValueError, match=r"unknown preset 'fast'; choose one of .*oliver, mixmatch"
    ):
        training("digits", "fast")


@pytest.mark.parametrize(
    ("preset", "expected"), [("oliver", 1e-3), ("mixmatch", 1e-3), ("paper", None)]
)
def test_batchnorm_is_the_sources_own(preset: str, expected: float | None) -> None:
    """Both TensorFlow sources keep 0.999 of the running statistics and add TensorFlow's ε."""
    given = training("cifar10", preset)
    assert (given.batchnorm_momentum, given.batchnorm_eps) == (expected, expected)
    assert training("digits", preset).batchnorm_eps is None  # its network has none

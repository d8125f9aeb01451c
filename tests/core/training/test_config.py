from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from core.analysis.config import AnalysisConfig
from core.meta.reading import PAPER
from core.policies import AdaMixUpConfig, LearnedConfig, PolicyConfig
from core.policies.drawn import Beta, Frozen, NoMix
from core.training.config import TrainingConfig

POLICIES = [
    Beta(0.5),
    Frozen((0.1, 1 / 3, 0.7)),
    LearnedConfig(PAPER, every=4, permute=True),
    AdaMixUpConfig(discriminator=False),
]


def config(**changes: Any) -> TrainingConfig:
    values: dict[str, Any] = {"dataset": "digits", "model": "cnn", "policy": NoMix()}
    return TrainingConfig(**{**values, **changes})


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_round_trip_through_json(policy: PolicyConfig) -> None:
    original = config(
        policy=policy,
        seed=3,
        image_size=14,
        train_size=500,
        schedule="step",
        milestones=(60, 120),
        width=16,
        meta_in_training=True,
        label_noise=0.4,
        label_noise_kind="pair",
        imbalance=50.0,
        folds=5,
        fold=4,
        translate=2,
        normalisation="gcn-zca",
        padding="reflect",
        noise=0.15,
        analysis=AnalysisConfig(pair_epochs=(3, 30), mixed_samples=7),
    )
    text = json.dumps(original.to_dict(), allow_nan=False)
    again = TrainingConfig.from_dict(json.loads(text))
    assert again == original
    assert hash(again) == hash(original)
    assert json.dumps(again.to_dict()) == text


def test_defaults_are_the_papers() -> None:
    c = config()
    assert (c.epochs, c.batch_size, c.meta_size, c.lr) == (600, 128, 1000, 0.1)
    assert (c.momentum, c.weight_decay, c.schedule) == (0.9, 1e-4, "cosine")
    assert c.optimizer == "sgd"
    assert (c.normalisation, c.padding, c.noise) == ("standard", "zero", 0.0)
    assert (c.flip, c.translate, c.meta_in_training) == (True, 0, False)
    assert (c.label_noise, c.label_noise_kind, c.imbalance) == (0.0, "symmetric", 1.0)
    assert (c.folds, c.fold) == (0, 0)
    assert c.analysis is None


def test_missing_settings_take_their_defaults() -> None:
    data = {"dataset": "digits", "model": "cnn", "policy": {"kind": "beta", "alpha": 1.0}}
    assert TrainingConfig.from_dict(data) == config(policy=Beta(alpha=1.0))


def test_a_setting_that_came_later_leaves_what_was_stored_before_as_it_is() -> None:
    later = {"batchnorm_momentum": 0.5, "batchnorm_eps": 0.1, "precision": "bf16"}
    assert not later.keys() & config().to_dict().keys()
    stored = config(**later).to_dict()
    assert {name: stored[name] for name in later} == later
    assert TrainingConfig.from_dict(stored) == config(**later)


def test_reading_does_not_change_what_it_reads() -> None:
    data = config(policy=LearnedConfig(reading=PAPER)).to_dict()
    text = json.dumps(data)
    TrainingConfig.from_dict(data)
    assert json.dumps(data) == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": 3}, r"unknown training settings \['epoch'\]; this version knows .*'epochs'"),
        ({"policy": {"kind": "beta", "alpha": 1.0, "beta": 2}}, "cannot be read.*'beta'"),
        ({"policy": {"kind": "learned", "reading": {"speed": 1}}}, "cannot be read.*'speed'"),
        ({"policy": {"kind": "learned", "reading": {"scale": "max"}}}, "Reading.scale"),
        ({"policy": {"alpha": 1.0}}, "cannot be read.*kind"),
        ({"policy": None}, "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig.from_dict({**config().to_dict(), **change})


@pytest.mark.parametrize("missing", ["policy", "dataset", "model"])
def test_missing_fields_are_named(missing: str) -> None:
    data = config().to_dict()
    del data[missing]
    with pytest.raises(ValueError, match=f"cannot be read.*{missing}"):
        TrainingConfig.from_dict(data)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "epochs must be at least 1, got 0"),
        ("batch_size", -1, "batch_size must be at least 1, got -1"),
        ("meta_batch_size", 0, "meta_batch_size"),
        ("meta_size", 0, "meta_size"),
        ("image_size", 0, "image_size must be None or at least 1, got 0"),
        ("train_size", 0, "train_size must be None or at least 1"),
        ("width", -4, "width must be None or at least 1, got -4"),
        ("momentum", -0.1, "momentum must be at least 0, got -0.1"),
        ("momentum", float("nan"), "momentum must be at least 0, got nan"),
        ("weight_decay", -1.0, "weight_decay"),
        ("translate", -1, "translate"),
        ("seed", -1, "seed must be at least 0"),
        ("seed", 2**63, "seed must be below"),
        ("lr", 0.0, "lr must be positive and finite, got 0.0"),
        ("lr", float("nan"), "lr must be positive"),
        ("lr", float("inf"), "lr must be positive"),
        ("lr_decay", 0.0, r"lr_decay must lie in \(0, 1\], got 0.0"),
        ("lr_decay", 10.0, r"lr_decay must lie in \(0, 1\], got 10.0"),
        (
            "schedule",
            "linear",
            "schedule must be cosine, step, constant or package.module:name, got 'linear'",
        ),
        (
            "optimizer",
            "rmsprop",
            "optimizer must be sgd, adam, adamw or package.module:name, got 'rmsprop'",
        ),
        ("normalisation", "l2", "normalisation must be standard, unit, gcn-zca; got 'l2'"),
        ("padding", "edge", "padding must be zero or reflect, got 'edge'"),
        ("padding", "reflect", "'reflect' has no use without translate; give translate, or leave"),
        ("noise", -0.1, "noise must be finite and at least 0, got -0.1"),
        ("noise", float("nan"), "noise must be finite and at least 0, got nan"),
        ("noise", float("inf"), "noise must be finite and at least 0, got inf"),
        ("label_noise", -0.1, r"label_noise must lie in \[0, 1\], got -0.1"),
        ("label_noise", 40, r"label_noise must lie in \[0, 1\], got 40"),
        ("label_noise", float("nan"), r"label_noise must lie in \[0, 1\], got nan"),
        ("label_noise_kind", "flip", "label_noise_kind must be symmetric or pair, got 'flip'"),
        # A stray value would make two names of one training.
        ("label_noise_kind", "pair", "'pair' has no use without label_noise; give label_noise, or"),
        ("folds", -1, "folds must be at least 0, got -1"),
        ("folds", 1, "folds=1 holds out every training image; give 2 or more, or meta_in"),
        ("fold", -1, r"fold must lie in \[0, 1\), got -1"),
        ("fold", 1, r"fold must lie in \[0, 1\), got 1"),
        ("imbalance", 0.5, "imbalance must be finite and at least 1, got 0.5"),
        ("imbalance", float("nan"), "imbalance must be finite and at least 1, got nan"),
        ("imbalance", float("inf"), "imbalance must be finite and at least 1, got inf"),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**{field: value})
    with pytest.raises(ValueError, match=message):
        replace(config(), **{field: value})


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_adam_has_no_use_for_another_momentum(optimizer: Any) -> None:
    assert config(optimizer=optimizer).momentum == 0.9
    with pytest.raises(ValueError, match=f"{optimizer} has no use for momentum=0.5; leave it out"):
        config(optimizer=optimizer, momentum=0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": None}, "lr must be a number, got None"),
        ({"lr": "0.1"}, "lr must be a number, got '0.1'"),
        ({"batch_size": 2.5}, "batch_size must be a whole number, got 2.5"),
        ({"meta_size": True}, "meta_size must be a whole number, got True"),
        ({"image_size": 4.0}, "image_size must be a whole number or None, got 4.0"),
        ({"flip": 1}, "flip must be True or False, got 1"),
        ({"optimizer": torch.optim.SGD}, "optimizer must be a text, got <class"),
        ({"policy": "none"}, r"policy must be one as core.NoMix\(\) is, got 'none'"),
        ({"milestones": 3}, "milestones must be a tuple of epochs, got 3"),
        ({"milestones": (1.5,)}, r"milestones must be a tuple of epochs, got \(1.5,\)"),
        ({"semi": "mixmatch"}, "semi must be of SemiSupervisedConfig, got 'mixmatch'"),
        ({"analysis": {}}, r"analysis must be of AnalysisConfig, got \{\}"),
    ],
)
def test_settings_of_another_type_are_refused_by_name(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_numbers_of_numpy_are_those_of_python() -> None:
    """A checkpoint is read with `weights_only`, which knows no others, and JSON neither."""
    learned = LearnedConfig(replace(PAPER, step_size=np.float64(0.5)), every=np.int64(4))
    numpy = config(
        policy=learned,
        lr=np.float64(0.5),
        width=np.int64(4),
        weight_decay=np.float32(0.5),
        flip=np.bool_(True),
        schedule="step",
        milestones=(np.int64(1), 2),
    )
    python = replace(numpy, lr=0.5, width=4, weight_decay=0.5, flip=True, milestones=(1, 2))
    assert json.loads(json.dumps(numpy.to_dict())) == python.to_dict()
    assert isinstance(numpy.policy, LearnedConfig)
    kinds = [type(v) for v in (numpy.lr, *numpy.milestones, numpy.flip, numpy.policy.every)]
    assert kinds == [float, int, int, bool, int]
    assert type(numpy.policy.reading.step_size) is float
    for policy in POLICIES:
        assert config(policy=policy).policy is policy

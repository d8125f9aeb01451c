from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from core.analysis.config import AnalysisConfig
from core.meta.reading import DEFAULT, PAPER, Reading
from core.models.cnn import DigitsCNN
from core.policies.adamixup.policy import AdaMixUp
from core.policies.amortised import Amortised
from core.policies.drawn import Beta, Fixed, Frozen, NoMix
from core.policies.learned import Learned
from core.policies.persistent_scores import SCORES, PersistentScores
from core.training.config import PolicyConfig, TrainingConfig

CHEAPER = [
    PolicyConfig("learned", last_blocks=2),
    PolicyConfig("placebo", refresh_every=5),
    PolicyConfig("learned", every=4),
    PolicyConfig("placebo", reading=PAPER, last_blocks=1, refresh_every=3, every=16),
]
POLICIES = [
    (PolicyConfig("none"), NoMix()),
    (PolicyConfig("beta", alpha=0.5), Beta(0.5)),
    (PolicyConfig("beta", alpha=2.0, per_sample=True), Beta(2.0, per_sample=True)),
    (PolicyConfig("fixed", lam=0.4), Fixed(0.4)),
    (PolicyConfig("frozen", quantiles=(0.1, 1 / 3, 0.7)), Frozen((0.1, 1 / 3, 0.7))),
    (PolicyConfig("learned"), Learned(DEFAULT)),
    (PolicyConfig("learned", reading=PAPER), Learned(PAPER)),
    (PolicyConfig("placebo"), Learned(DEFAULT, placebo=True)),
    (
        PolicyConfig("placebo", reading=Reading(scale="sign", step_size=3.0)),
        Learned(Reading(scale="sign", step_size=3.0), placebo=True),
    ),
    (PolicyConfig("scores"), PersistentScores(Reading(step_size=0.5))),
    (PolicyConfig("scores", every=4), PersistentScores(SCORES, every=4)),
    (
        PolicyConfig("scores-placebo", reading=DEFAULT, last_blocks=2),
        PersistentScores(DEFAULT, placebo=True, last_blocks=2),
    ),
]
ADAMIXUP = [PolicyConfig("adamixup"), PolicyConfig("adamixup-no-discriminator")]
ADAMIXUP_HELD = [replace(policy, quantiles=(0.2, 0.5, 0.6)) for policy in ADAMIXUP]


def config(**changes: Any) -> TrainingConfig:
    values: dict[str, Any] = {"dataset": "digits", "model": "cnn", "policy": PolicyConfig("none")}
    return TrainingConfig(**{**values, **changes})


@pytest.mark.parametrize(("policy", "built"), POLICIES)
def test_builds_the_policy_it_names(policy: PolicyConfig, built: Any) -> None:
    assert policy.build() == built


@pytest.mark.parametrize("policy", CHEAPER, ids=str)
def test_builds_the_cheaper_meta_stages(policy: PolicyConfig) -> None:
    built = policy.build()
    assert isinstance(built, Amortised) == (policy.every > 1)
    if isinstance(built, Amortised):
        assert built.every == policy.every
        built = built.learned
    assert isinstance(built, Learned)
    assert built.reading == (policy.reading or DEFAULT)
    assert built.placebo == (policy.kind == "placebo")
    assert built.last_blocks == policy.last_blocks
    kept = built.validation_gradient
    assert (1 if kept is None else kept.refresh_every) == policy.refresh_every
    # What a policy learns belongs to one training.
    again = policy.build()
    inside = again.learned if isinstance(again, Amortised) else again
    assert isinstance(inside, Learned)
    assert kept is None or inside.validation_gradient is not kept


def test_scores_of_one_training_are_its_own() -> None:
    config = PolicyConfig("scores-placebo", refresh_every=3, every=2)
    one, other = config.build(), config.build()
    assert isinstance(one, PersistentScores)
    assert isinstance(other, PersistentScores)
    assert (one.placebo, one.every) == (True, 2)
    assert one is not other
    assert one.validation_gradient is not None
    assert one.validation_gradient.refresh_every == 3
    assert other.validation_gradient is not one.validation_gradient


@pytest.mark.parametrize("policy", ADAMIXUP, ids=str)
def test_adamixup_gets_a_network_of_its_own(policy: PolicyConfig) -> None:
    made = []

    def network() -> DigitsCNN:
        made.append(DigitsCNN(1, 10, 8))
        return made[-1]

    one, other = policy.build(network), policy.build(network)
    for built, own in zip((one, other), made, strict=True):
        assert isinstance(built, AdaMixUp)
        assert built.policy_generator is not None
        assert built.policy_generator.backbone is own
        assert (built.discriminator is not None) == (policy.kind == "adamixup")
    with pytest.raises(ValueError, match="a network of its own and needs `network`"):
        policy.build()


@pytest.mark.parametrize("policy", ADAMIXUP_HELD, ids=str)
def test_adamixup_may_draw_from_what_it_is_given(policy: PolicyConfig) -> None:
    built = policy.build(lambda: DigitsCNN(1, 10, 8))
    assert isinstance(built, AdaMixUp)
    assert built.policy_generator is None
    assert built.quantiles == (0.2, 0.5, 0.6)
    assert (built.discriminator is not None) == (policy.kind == "adamixup")
    with pytest.raises(ValueError, match="quantiles must not fall"):
        replace(policy, quantiles=(0.5, 0.2))


def test_the_exact_policy_keeps_nothing() -> None:
    written_out = PolicyConfig("learned", last_blocks=None, refresh_every=1, every=1)
    assert written_out == PolicyConfig("learned")
    assert written_out.build() == Learned(DEFAULT)


@pytest.mark.parametrize(
    "policy", [*(policy for policy, _ in POLICIES), *CHEAPER, *ADAMIXUP, *ADAMIXUP_HELD], ids=str
)
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
    assert TrainingConfig.from_dict(data) == config(policy=PolicyConfig("beta", alpha=1.0))


def test_reading_does_not_change_what_it_reads() -> None:
    data = config(policy=PolicyConfig("learned", reading=PAPER)).to_dict()
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
    ("values", "message"),
    [
        (
            {"kind": "mixup"},
            "none, beta, fixed, .*adamixup-no-discriminator; got 'mixup'",
        ),
        ({"kind": "beta"}, "policy beta needs alpha"),
        ({"kind": "beta", "alpha": 0.0}, "positive and finite, got 0.0"),
        ({"kind": "fixed"}, "policy fixed needs lam"),
        ({"kind": "frozen"}, "policy frozen needs quantiles, got None"),
        ({"kind": "frozen", "quantiles": (0.2, 0.1)}, "must not fall"),
        ({"kind": "frozen", "quantiles": (0.1, 0.2), "lam": 0.1}, "frozen has no use for lam=0.1"),
        ({"kind": "learned", "quantiles": (0.1, 0.2)}, "policy learned has no use for quantiles"),
        ({"kind": "fixed", "lam": 1.5}, r"must lie in \[0, 1\], got 1.5"),
        # A stray value would make two names of one training.
        ({"kind": "none", "alpha": 1.0}, "policy none has no use for alpha=1.0; leave it out"),
        ({"kind": "fixed", "lam": 0.1, "per_sample": True}, "no use for per_sample=True"),
        ({"kind": "beta", "alpha": 1.0, "reading": PAPER}, "policy beta has no use for reading"),
        ({"kind": "learned", "lam": 0.1}, "policy learned has no use for lam=0.1"),
        ({"kind": "beta", "alpha": 1.0, "every": 4}, "policy beta has no use for every=4"),
        ({"kind": "none", "last_blocks": 1}, "policy none has no use for last_blocks=1"),
        ({"kind": "fixed", "lam": 0.1, "refresh_every": 2}, "no use for refresh_every=2"),
        ({"kind": "learned", "last_blocks": 0}, "last_blocks must be None or at least 1, got 0"),
        ({"kind": "placebo", "last_blocks": -2}, "last_blocks must be None or at least 1, got -2"),
        ({"kind": "learned", "refresh_every": 0}, "refresh_every must be at least 1, got 0"),
        ({"kind": "learned", "every": 0}, "every must be at least 1, got 0"),
        ({"kind": "placebo", "every": -1}, "every must be at least 1, got -1"),
        ({"kind": "scores", "every": 0}, "every must be at least 1, got 0"),
        ({"kind": "scores", "last_blocks": 0}, "last_blocks must be None or at least 1, got 0"),
        ({"kind": "scores", "refresh_every": 0}, "refresh_every must be at least 1, got 0"),
        ({"kind": "scores", "reading": PAPER}, 'needs projection="sigmoid_before"'),
        ({"kind": "scores", "alpha": 1.0}, "policy scores has no use for alpha=1.0"),
        ({"kind": "adamixup", "alpha": 1.0}, "policy adamixup has no use for alpha=1.0"),
        ({"kind": "scores-placebo", "lam": 0.1}, "policy scores-placebo has no use for lam=0.1"),
    ],
)
def test_policies_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PolicyConfig(**values)


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
        ("lr", 0.0, "lr must be positive and finite, got 0.0"),
        ("lr", float("nan"), "lr must be positive"),
        ("lr", float("inf"), "lr must be positive"),
        ("lr_decay", 0.0, r"lr_decay must lie in \(0, 1\], got 0.0"),
        ("lr_decay", 10.0, r"lr_decay must lie in \(0, 1\], got 10.0"),
        ("schedule", "linear", "schedule must be cosine, step or constant, got 'linear'"),
        ("optimizer", "rmsprop", "optimizer must be sgd, adam or adamw, got 'rmsprop'"),
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

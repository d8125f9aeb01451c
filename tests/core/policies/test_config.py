from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import pytest

import core.policies.config as module
from core.meta.reading import DEFAULT, PAPER, Reading
from core.models.cnn import DigitsCNN
from core.policies import (
    AdaMixUp,
    AdaMixUpConfig,
    Amortised,
    Beta,
    CutMix,
    Fixed,
    Frozen,
    FrozenScheduleConfig,
    L2RWConfig,
    Learned,
    LearnedBetaConfig,
    LearnedConfig,
    MetaWeightNetConfig,
    NoMix,
    PersistentScores,
    PolicyConfig,
    ScoresConfig,
    policy_from_dict,
    policy_kinds,
    register_policy,
)

READING = {
    "init_alpha": 1.0,
    "projection": "sigmoid_before",
    "gradient": "logit",
    "scale": "rms",
    "step_size": 4.0,
    "meta_steps": 1,
    "inner_step": "gradient_descent",
}
SMALL = {**READING, "step_size": 0.1}
UNUSED = {
    "alpha": None,
    "per_sample": False,
    "lam": None,
    "reading": None,
    "last_blocks": None,
    "refresh_every": 1,
    "every": 1,
    "quantiles": None,
}
LEARNED_BETA = {
    "begin": "auto",
    "reach": 6.0,
    "bounds": [0.01, 10.0],
    "average_over": 8,
    "objective": "loss",
    "stratified": False,
    "carry": 0.0,
    "sigma": 0.0,
    "path": "ends",
}
STORED: list[tuple[PolicyConfig, dict[str, Any]]] = [
    (NoMix(), {"kind": "none"}),
    (Beta(0.5), {"kind": "beta", "alpha": 0.5}),
    (Beta(1.0, per_sample=True), {"kind": "beta", "alpha": 1.0, "per_sample": True}),
    (Fixed(0.4), {"kind": "fixed", "lam": 0.4}),
    (Frozen((0.1, 1 / 3, 0.7)), {"kind": "frozen", "quantiles": [0.1, 1 / 3, 0.7]}),
    (LearnedConfig(), {"kind": "learned", "reading": READING}),
    (LearnedConfig(last_blocks=2), {"kind": "learned", "reading": READING, "last_blocks": 2}),
    (
        LearnedConfig(Reading(scale="sign"), refresh_every=3, every=16, permute=True),
        {
            "kind": "placebo",
            "reading": {**READING, "scale": "sign"},
            "refresh_every": 3,
            "every": 16,
        },
    ),
    (ScoresConfig(), {"kind": "scores", "reading": SMALL}),
    (
        ScoresConfig(DEFAULT, every=4, permute=True),
        {"kind": "scores-placebo", "reading": READING, "every": 4},
    ),
    (LearnedBetaConfig(), {"kind": "learned-beta", "alpha": 1.0, "every": 8, "per_sample": True}),
    (
        LearnedBetaConfig(0.5, 0.6, 4, bounds=(0.1, 2.0), objective="brier", permute=True),
        {
            "kind": "learned-beta-placebo",
            "alpha": 0.5,
            "per_sample": True,
            "every": 4,
            "begin": 0.6,
            "bounds": [0.1, 2.0],
            "objective": "brier",
        },
    ),
    (ScoresConfig(mixing="area"), {"kind": "scores-area", "reading": SMALL}),
    (
        ScoresConfig(mixing="area", permute=True),
        {"kind": "scores-area-placebo", "reading": SMALL},
    ),
    (CutMix(0.5, probability=0.25), {"kind": "cutmix", "alpha": 0.5, "probability": 0.25}),
    (ScoresConfig(exchange=True), {"kind": "scores-exchanged", "reading": SMALL}),
    (
        ScoresConfig(mixing="area", exchange=True),
        {"kind": "scores-area-exchanged", "reading": SMALL},
    ),
    (AdaMixUpConfig(), {"kind": "adamixup"}),
    (AdaMixUpConfig((0.2, 0.6)), {"kind": "adamixup", "quantiles": [0.2, 0.6]}),
    (AdaMixUpConfig(discriminator=False), {"kind": "adamixup-no-discriminator"}),
    (L2RWConfig(), {"kind": "l2rw"}),
    (L2RWConfig(permute=True, last_blocks=2), {"kind": "l2rw-placebo", "last_blocks": 2}),
]
"""Every kind, and what its stored JSON says beside what it has no use for."""


SCHEDULE = FrozenScheduleConfig(((0.1, 1 / 3), (0.5, 0.5, 0.9)))

NETS: list[tuple[PolicyConfig, dict[str, Any]]] = [
    (MetaWeightNetConfig(), {"kind": "meta-weight-net"}),
    (
        MetaWeightNetConfig(permute=True, hidden=20, net_lr=0.01),
        {"kind": "meta-weight-net-placebo", "hidden": 20, "net_lr": 0.01},
    ),
]
"""Those with settings that no other policy has, which are stored in whole."""


@pytest.mark.parametrize(("config", "identity"), NETS, ids=str)
def test_settings_of_its_own_are_stored_and_identify(
    config: PolicyConfig, identity: dict[str, Any]
) -> None:
    settings = {"hidden": 100, "net_lr": 1e-3, "net_weight_decay": 1e-4}
    assert config.to_dict() == {**UNUSED, **settings, **identity}
    assert config.identity() == identity
    for data in (config.to_dict(), identity):
        assert policy_from_dict(json.loads(json.dumps(data))) == config


@pytest.mark.parametrize(("config", "stored"), STORED, ids=str)
def test_stored_json_says_the_same_as_ever(config: PolicyConfig, stored: dict[str, Any]) -> None:
    settings = LEARNED_BETA if isinstance(config, LearnedBetaConfig) else {}
    assert json.dumps(config.to_dict()) == json.dumps({"kind": "", **UNUSED, **settings, **stored})
    assert config.identity() == stored
    for data in (config.to_dict(), stored):
        again = policy_from_dict(json.loads(json.dumps(data)))
        assert again == config
        assert hash(again) == hash(config)


def test_every_kind_is_looked_at_here() -> None:
    assert {config.kind for config, _ in (*STORED, *NETS)} | {SCHEDULE.kind} == set(policy_kinds())


def test_a_schedule_is_stored_in_whole() -> None:
    stored = {"kind": "frozen-schedule", "schedule": [[0.1, 1 / 3], [0.5, 0.5, 0.9]]}
    assert SCHEDULE.to_dict() == {**UNUSED, **stored}
    assert SCHEDULE.identity() == stored
    again = policy_from_dict(json.loads(json.dumps(SCHEDULE.to_dict())))
    assert again == SCHEDULE
    assert hash(again) == hash(SCHEDULE)
    assert SCHEDULE.cost == 1
    assert SCHEDULE.needs_meta_labels


@pytest.mark.parametrize(
    ("config", "cost"),
    [
        (NoMix(), 1.0),
        (Fixed(0.3), 1.0),
        (Beta(2.0), 1.0),
        (Frozen((0.0, 1.0)), 1.0),
        (LearnedConfig(), 4.5),
        (LearnedConfig(permute=True, every=7), 1.5),
        (ScoresConfig(every=2), 2.75),
        (L2RWConfig(), 4.5),
        (MetaWeightNetConfig(), 4.5 + 1 / 3),
        (LearnedBetaConfig(begin=0.5, every=7), 1.25),
        (LearnedBetaConfig(), 1.175),
        (LearnedBetaConfig(begin=0.5, every=4, carry=0.9), 2.275),
        (LearnedBetaConfig(begin=0.0, sigma=0.3), 3.0),
        (AdaMixUpConfig(), 3.0),
        (AdaMixUpConfig(discriminator=False), 1.5),
        (AdaMixUpConfig(quantiles=(0.0, 1.0)), 2.5),
        (AdaMixUpConfig(discriminator=False, quantiles=(0.0, 1.0)), 1.0),
    ],
)
def test_the_cost_of_an_epoch(config: PolicyConfig, cost: float) -> None:
    assert config.cost == pytest.approx(cost)


@pytest.mark.parametrize(("config", "_"), [*STORED, *NETS], ids=str)
def test_controls_take_away_one_thing_or_are_refused_by_name(config: PolicyConfig, _: Any) -> None:
    if config.kind in (
        "learned",
        "scores",
        "scores-area",
        "learned-beta",
        "l2rw",
        "meta-weight-net",
    ):
        change = "exchange" if config.kind.startswith("scores") else "permute"
        assert config.placebo() == replace(config, **{change: True})
        assert config.placebo().cost == config.cost
    else:
        with pytest.raises(ValueError, match=f"policy {config.kind} has no placebo"):
            config.placebo()
    if config.kind.startswith("scores-area"):
        with pytest.raises(ValueError, match=f"policy {config.kind} has no frozen control"):
            config.frozen((0.0, 1.0))
    elif config.learns and not config.weights_samples:
        assert config.frozen((0.2, 0.3)) == Frozen((0.2, 0.3))
    elif isinstance(config, AdaMixUpConfig):
        assert config.frozen((0.2, 0.3)) == replace(config, quantiles=(0.2, 0.3))
    else:
        with pytest.raises(ValueError, match=f"policy {config.kind} learns no λ"):
            config.frozen((0.2, 0.3))
    assert config.needs_meta_labels == (config.learns or config.kind == "frozen")


def test_one_lambda_a_batch_has_no_frozen_control_with_one_a_sample() -> None:
    with pytest.raises(ValueError, match="per_sample=False has no frozen control"):
        LearnedBetaConfig(per_sample=False).frozen((0.0, 1.0))


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("refresh_every", [1, 3])
@pytest.mark.parametrize("permute", [False, True])
@pytest.mark.parametrize("kind", [LearnedConfig, ScoresConfig])
def test_builds_the_policy_that_it_describes(
    kind: type[LearnedConfig] | type[ScoresConfig], permute: bool, refresh_every: int, every: int
) -> None:
    config = kind(DEFAULT, 2, refresh_every, every, permute)
    one, other = config.build(), config.build()
    assert one is not other
    if isinstance(one, PersistentScores) or every > 1:
        assert isinstance(one, PersistentScores | Amortised)
        assert one.every == every
    inner = [policy.learned if isinstance(policy, Amortised) else policy for policy in (one, other)]
    assert {type(p) for p in inner} == {Learned if kind is LearnedConfig else PersistentScores}
    assert (inner[0].reading, inner[0].last_blocks) == (DEFAULT, 2)
    inside = inner[0]
    permutes = inside.permute if isinstance(inside, PersistentScores) else inside.placebo
    assert permutes == permute
    first, second = (policy.validation_gradient for policy in inner)
    assert (1 if first is None else first.refresh_every) == refresh_every
    # What a policy learns belongs to one training.
    assert first is None or first is not second


@pytest.mark.parametrize("discriminator", [True, False])
@pytest.mark.parametrize("quantiles", [None, (0.2, 0.5, 0.6)])
def test_adamixup_gets_a_network_of_its_own(
    discriminator: bool, quantiles: tuple[float, ...] | None
) -> None:
    config = AdaMixUpConfig(quantiles, discriminator)
    network = DigitsCNN(1, 10, 8)
    built = config.build(lambda: network)
    assert isinstance(built, AdaMixUp)
    assert built.quantiles == quantiles
    assert (built.discriminator is not None) == discriminator
    assert (built.policy_generator is None) == (quantiles is not None)
    assert built.policy_generator is None or built.policy_generator.backbone is network
    with pytest.raises(ValueError, match="a network of its own and needs `network`"):
        config.build()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "mixup"}, "none, beta, cutmix, fixed, .*scores-placebo, .*; got 'mixup'"),
        ({"kind": "adamixup", "quantiles": [0.2, 0.1]}, "must not fall"),
        ({"kind": "frozen", "quantiles": [0.1, 0.2], "lam": 0.1}, "frozen has no use for lam=0.1"),
        ({"kind": "learned", "quantiles": [0.1, 0.2]}, "policy learned has no use for quantiles"),
        # A stray value would make two names of one training.
        ({"kind": "none", "alpha": 1.0}, "policy none has no use for alpha=1.0; leave it out"),
        ({"kind": "fixed", "lam": 0.1, "per_sample": True}, "no use for per_sample=True"),
        ({"kind": "beta", "alpha": 1.0, "reading": READING}, "policy beta has no use for reading"),
        ({"kind": "beta", "alpha": 1.0, "every": 4}, "policy beta has no use for every=4"),
        ({"kind": "none", "last_blocks": 1}, "policy none has no use for last_blocks=1"),
        ({"kind": "fixed", "lam": 0.1, "refresh_every": 2}, "no use for refresh_every=2"),
        ({"kind": "learned", "last_blocks": 0}, "last_blocks must be None or at least 1, got 0"),
        ({"kind": "placebo", "last_blocks": -2}, "last_blocks must be None or at least 1, got -2"),
        (
            {"kind": "learned", "refresh_every": 0},
            "refresh_every must be a whole number of at least 1, got 0",
        ),
        ({"kind": "placebo", "every": -1}, "every must be at least 1, got -1"),
        ({"kind": "frozen-schedule", "schedule": []}, "quantiles of 1 part or more; got none"),
        (
            {"kind": "frozen-schedule", "schedule": [[0, 1], [0.2, 0.1]]},
            "part 1 of the schedule: quantiles must not fall",
        ),
        ({"kind": "l2rw", "last_blocks": 0}, "last_blocks must be None or at least 1, got 0"),
        ({"kind": "l2rw", "every": 4}, "policy l2rw has no use for every=4"),
        ({"kind": "meta-weight-net", "hidden": 0}, "hidden must be at least 1, got 0"),
        ({"kind": "meta-weight-net", "net_lr": 0.0}, "must be positive and finite, got 0.0"),
        ({"kind": "meta-weight-net", "net_weight_decay": -1.0}, "at least 0, got -1.0"),
        ({"kind": "adamixup", "alpha": 1.0}, "policy adamixup has no use for alpha=1.0"),
        ({"kind": "scores-placebo", "lam": 0.1}, "policy scores-placebo has no use for lam=0.1"),
    ],
)
def test_values_without_a_use_or_out_of_range_are_refused(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        policy_from_dict(values)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"kind": "learned", "permute": True}, "learned has permute=False, got True"),
        (
            {"kind": "adamixup", "discriminator": False},
            "adamixup has discriminator=True, got False",
        ),
        ({"kind": "scores", "mixing": "area"}, "scores has mixing='input', got 'area'"),
        ({"kind": "l2rw", "permute": 1.5}, "leave it out, or name another kind"),
    ],
)
def test_what_a_kind_stands_for_is_not_said_otherwise(stored: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy_from_dict(stored)
    other = next(name for name in stored if name != "kind")
    config = policy_from_dict({"kind": stored["kind"]})
    assert policy_from_dict({**stored, other: getattr(config, other)}) == config


def test_scores_have_one_placebo() -> None:
    with pytest.raises(ValueError, match="one placebo: permute or exchange"):
        ScoresConfig(permute=True, exchange=True)
    built = ScoresConfig(exchange=True, every=2).build()
    assert (built.placebo, built.permute, built.every) == (True, False, 2)


def test_scores_need_a_reading_that_moves_a_logit() -> None:
    with pytest.raises(ValueError, match='needs projection="sigmoid_before"'):
        ScoresConfig(PAPER)


@pytest.mark.parametrize("name", ["kind", "lam"])
def test_what_is_missing_is_named(name: str) -> None:
    values = {"kind": "fixed", "lam": 0.1}
    del values[name]
    with pytest.raises((KeyError, TypeError), match=name):
        policy_from_dict(values)


def test_a_name_stands_for_one_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REGISTERED", dict(module._REGISTERED))

    @dataclass(frozen=True)
    class Other(Fixed):
        kinds: ClassVar = {"fixed": {}}

    with pytest.raises(ValueError, match="policy kind 'fixed' of Other is taken by Fixed"):
        register_policy(Other)

    @dataclass(frozen=True)
    class Nameless(PolicyConfig):
        weight: float = 1.0

    with pytest.raises(ValueError, match="Nameless has no `kinds`: a ClassVar of the names"):
        register_policy(Nameless)
    assert register_policy(Fixed) is Fixed  # again, as a module that is loaded anew
    assert [field.name for field in fields(Other)] == ["lam"]

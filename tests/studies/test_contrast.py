"""What the contrast compares; `tests/hpo/cluster/test_runner.py` runs a part of it."""

from __future__ import annotations

from typing import Any

from hpo.search.spaces import BETA_ALPHA
from hpo.search.strategies import Evolved, Listed, Sampled
from studies.contrast import rows


def test_the_strategies_are_those_of_the_issue() -> None:
    strategies: dict[str, Any] = {row.row.key: row.strategy for row in rows()}
    sampled = {
        key: (s.policy.kind, sorted(s.space), s.sampler, s.halving)
        for key, s in strategies.items()
        if isinstance(s, Sampled)
    }
    assert sampled == {
        "random-alpha": ("beta", ["alpha"], "random", False),
        "random-alpha-asha": ("beta", ["alpha"], "random", True),
        "tpe-alpha": ("beta", ["alpha"], "tpe", False),
        "tpe-alpha-asha": ("beta", ["alpha"], "tpe", True),
        "tpe-joint": ("beta", ["alpha", "lr", "weight_decay"], "tpe", True),
        "metamixup-outer": ("learned", ["lr", "step_size", "weight_decay"], "tpe", True),
        "scores-outer": ("scores", ["lr", "step_size", "weight_decay"], "tpe", True),
    }
    assert strategies["tpe-alpha"].space == BETA_ALPHA
    listed = {key: s.policies for key, s in strategies.items() if isinstance(s, Listed)}
    assert [policy.kind for policy in listed["metamixup"]] == ["learned"]
    assert [policy.kind for policy in listed["scores"]] == ["scores"]
    assert [policy.lam for policy in listed["fixed-grid"]] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert strategies.keys() - sampled.keys() - listed.keys() == {"pbt-alpha"}
    assert isinstance(strategies["pbt-alpha"], Evolved)

"""Rows that many studies have, by name, and rows of any policy."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import isfinite
from typing import Any

from core.meta.reading import DEFAULT, PAPER
from core.policies import (
    AdaMixUpConfig,
    Beta,
    Fixed,
    LearnedConfig,
    NoMix,
    PolicyConfig,
    policy_from_dict,
    policy_kinds,
)
from hpo.search.protocol import SEARCH_METHOD
from hpo.study.recipes import SEARCHED_ALPHA, Recipe
from hpo.study.rows import Family, Row, StudyRow, check_sources, controls
from hpo.study.variants import ENDINGS, varied


def row(
    key: str, label: str, setting: str, family: Family, recipe: Recipe, **training: Any
) -> StudyRow:
    """Returns a row of a table, with settings of `TrainingConfig` that it has for itself."""
    return StudyRow(Row(key, label, setting, family), recipe, training)


def beta(alpha: float) -> StudyRow:
    """Returns MixUp with one λ ~ Beta(α, α) a batch."""
    label, setting = f"MixUp (α = {alpha:g})", f"alpha={alpha:g}"
    return row(f"beta-{alpha:g}", label, setting, "beta", Beta(alpha=alpha))


def fixed(lam: float) -> StudyRow:
    """Returns MixUp with one λ for all."""
    return row(f"fixed-{lam:g}", f"MixUp (λ = {lam:g})", f"lam={lam:g}", "fixed", Fixed(lam=lam))


NONE = row("none", "No MixUp", "none", "none", NoMix())

MIXUP = beta(1.0)

SEARCHED = row(SEARCH_METHOD, "MixUp (α searched)", "alpha searched", "beta", SEARCHED_ALPHA)

ADAMIXUP = row("adamixup", "AdaMixUp", "discriminator", "extra", AdaMixUpConfig())

METAMIXUP = row(
    "metamixup",
    "MetaMixUp (default)",
    "reading=default",
    "learned",
    LearnedConfig(reading=DEFAULT),
)

METAMIXUP_PAPER = row(
    "metamixup-paper",
    "MetaMixUp (paper)",
    "reading=paper",
    "learned",
    LearnedConfig(reading=PAPER),
)

_NAMED = (NONE, SEARCHED, ADAMIXUP, METAMIXUP, METAMIXUP_PAPER, *controls(METAMIXUP, plain=True))


def metamixup_from(alpha: float) -> StudyRow:
    """Returns MetaMixUp whose λ start from Beta(α, α), in place of uniformly."""
    label, setting = f"MetaMixUp from Beta({alpha:g}, {alpha:g})", f"init_alpha={alpha:g}"
    policy = LearnedConfig(reading=replace(DEFAULT, init_alpha=alpha))
    return row(f"metamixup-from-{alpha:g}", label, setting, "learned", policy)


NUMBERED = {"beta": beta, "fixed": fixed, "metamixup-from": metamixup_from}
"""Rows of any number, by what their names begin with."""


def rows_of(policies: Sequence[str | PolicyConfig | StudyRow]) -> list[StudyRow]:
    """Returns a row for each policy, in this order.

    Args:
        policies: names ("none", "beta-1", "fixed-0.3", "beta-search", "metamixup", "placebo",
            "frozen", or a kind of `core.policies.policy_kinds`, with the endings of
            `hpo.study.variants`, "beta-1-stop-0.83"), configurations, or rows. The placebo of a
            learned policy among them is its control.

    Raises:
        ValueError: a name is unknown, a policy is given twice, or "frozen" lacks its source.
    """
    if isinstance(policies, (str, PolicyConfig, StudyRow)) or not policies:
        raise ValueError(f"policies must be a list of at least one, got {policies!r}")
    rows = [_row_of(policy) for policy in policies]
    for learned in rows:
        placebo = None
        with suppress(ValueError):
            placebo = learned.policy.placebo() if learned.policy is not None else None
        for i, other in enumerate(rows):
            theirs = placebo is not None and other.policy == placebo and _alike(learned, other)
            if theirs and not other.row.control_of:
                shown = replace(other.row, family="placebo", control_of=learned.row.key)
                rows[i] = replace(other, row=shown)
    keys = [each.row.key for each in rows]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"policy {key} is given {keys.count(key)} times; give it once")
    check_sources(rows)
    labels = Counter(each.row.label for each in rows)
    return [each if labels[each.row.label] == 1 else _by_key(each) for each in rows]


def _by_key(row: StudyRow) -> StudyRow:
    """Returns the row called by its key too, as another one has its label."""
    return replace(row, row=replace(row.row, label=f"{row.row.label} [{row.row.key}]"))


def _alike(one: StudyRow, other: StudyRow) -> bool:
    """Says whether two rows differ in their policy alone."""
    return replace(one, row=other.row, recipe=other.recipe) == other


def _row_of(policy: str | PolicyConfig | StudyRow) -> StudyRow:
    if isinstance(policy, StudyRow):
        return policy
    if isinstance(policy, str):
        return _named(policy)
    if not isinstance(policy, PolicyConfig):
        raise ValueError(
            f"{policy!r} is no policy; give a name, a configuration such as core.policies.Beta(), "
            "or a hpo.StudyRow"
        )
    if policy == Beta(alpha=0.0):
        return NONE
    same = [each for each in _NAMED if each.policy == policy]
    if same:
        return same[0]
    if policy == Beta(alpha=getattr(policy, "alpha", 1.0)):
        return beta(policy.alpha)
    if policy == Fixed(lam=getattr(policy, "lam", 0.5)):
        return fixed(policy.lam)
    return _of_kind(policy)


def numbered(name: str) -> list[StudyRow]:
    """Returns the row of a name such as "beta-0.5" or "fixed-0.3", none of another name.

    Raises:
        ValueError: its policy cannot have this number.
    """
    kind, _, number = name.rpartition("-")
    try:
        value = float(number)
    except ValueError:
        return []
    if kind in NUMBERED and isfinite(value) and float(f"{value:g}") != value:
        raise ValueError(f"{name} has more than the six digits that tell rows apart")
    if kind == "beta" and value == 0:
        raise ValueError(f"{name} mixes nothing, as the row none does; name that")
    try:
        return [NUMBERED[kind](value)] if kind in NUMBERED else []
    except ValueError as error:
        raise ValueError(f"{name}: {error}; write {kind}-0.5") from error


def _named(name: str) -> StudyRow:
    for row in varied(name, _found):
        return row
    known = [*(each.row.key for each in _NAMED), *(f"{kind}-NUMBER" for kind in NUMBERED)]
    known += [kind for kind in policy_kinds() if kind not in (*known, *NUMBERED, "learned")]
    raise ValueError(f"unknown policy {name!r}; choose among {', '.join(known)}; {ENDINGS}")


def _found(name: str) -> list[StudyRow]:
    of_row, _, control = name.rpartition("-")
    if control in ("placebo", "frozen") and of_row:
        for source in _found(of_row):
            with suppress(ValueError):
                return [each for each in controls(source) if each.row.key == name]
    known = [each for each in _NAMED if each.row.key == name] or numbered(name)
    if known or name in NUMBERED or name not in policy_kinds():
        return known
    try:
        policy = policy_from_dict({"kind": name})
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"policy {name} needs settings ({error}); give its configuration"
        ) from error
    return [_of_kind(policy)]


def _of_kind(policy: PolicyConfig) -> StudyRow:
    """Returns a row whose key has the policy's settings in it, shortened where they are many."""
    settings = {name: value for name, value in policy.identity().items() if name != "kind"}
    plain = _without_settings(policy.kind)
    key = policy.kind
    if policy != plain:
        written = json.dumps(settings, sort_keys=True)
        key += f"-{hashlib.sha256(written.encode()).hexdigest()[:6]}"
    text = ", ".join(_told(settings, {} if plain is None else plain.identity()))
    family: Family = "learned" if policy.learns else "extra"
    return row(key, f"{policy.kind} ({text})" if text else policy.kind, text or key, family, policy)


def _told(settings: Mapping[str, Any], plain: Mapping[str, Any]) -> Iterator[str]:
    """Yields the settings, of a group of them those that are not the plain ones; lists are long."""
    for name, value in settings.items():
        if isinstance(value, dict):
            usual = plain.get(name) or {}
            yield from _told({n: v for n, v in value.items() if usual.get(n) != v}, usual)
        elif not isinstance(value, list):
            yield f"{name}={value}"


def _without_settings(kind: str) -> PolicyConfig | None:
    """Returns the policy of a kind with no setting of its own, None where it needs some."""
    with suppress(TypeError, KeyError, ValueError):
        return policy_from_dict({"kind": kind})
    return None

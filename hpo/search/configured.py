"""A training with values of a search in place of its own, and these values read from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from core.training.config import TrainingConfig


def configured(base: TrainingConfig, values: Mapping[str, float]) -> TrainingConfig:
    """Returns the training with `values` in place of its own.

    A name is a setting of the training ("lr", "weight_decay"), of its policy ("alpha"), of the
    reading of a policy that learns ("step_size"), or of a semi-supervised method
    ("threshold_step").

    Raises:
        ValueError: a name is none of these, or the training has no reading or no such method.
    """
    parts = _parts(base)
    for name, value in values.items():
        part = _part_of(parts, name)
        parts[part] = replace(parts[part], **{name: value})
    policy = parts["policy"]
    if "reading" in parts:
        policy = replace(policy, reading=parts["reading"])
    return replace(parts["training"], policy=policy, semi=parts.get("semi"))


def setting(training: TrainingConfig, name: str) -> float:
    """Returns what the training has for a name of `configured`; raises ValueError as that does."""
    parts = _parts(training)
    return float(getattr(parts[_part_of(parts, name)], name))


def _parts(training: TrainingConfig) -> dict[str, Any]:
    """Returns what a search may vary, in the order in which names are looked up."""
    parts = {
        "training": training,
        "policy": training.policy,
        "reading": getattr(training.policy, "reading", None),
        "semi": training.semi,
    }
    return {name: part for name, part in parts.items() if part is not None}


def _part_of(parts: Mapping[str, Any], name: str) -> str:
    for part, config in parts.items():
        if name in {field.name for field in fields(config)} - _WHOLE:
            return part
    raise ValueError(
        f"cannot search over {name!r}: it is no setting of a training, of its policy "
        f"{parts['policy'].kind}, of a reading that this policy has, or of a semi-supervised "
        "method that it trains by"
    )


_WHOLE = {"policy", "reading", "semi", "kind", "labelled"}
"""Fields that hold another configuration, or say which one it is: no search varies them."""

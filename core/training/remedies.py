"""Settings of a training against long tails and wrong labels: names, limits, sources' values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from core.mixing.remedies import CLASS_WEIGHTS
from core.policies.plain_settings import check_numbers

LossName = Literal["cross-entropy", "logit-adjusted", "smoothed", "gce", "elr"]
LOSSES: tuple[LossName, ...] = get_args(LossName)

Sampling = Literal["uniform", "balanced"]
SAMPLINGS: tuple[Sampling, ...] = get_args(Sampling)

STRENGTHS: Mapping[str, tuple[float, float, str]] = {
    "logit-adjusted": (1.0, float("inf"), "τ of the class priors"),
    "smoothed": (0.1, 1.0, "ε of label smoothing"),
    "gce": (0.7, 1.0, "q of generalized cross-entropy"),
    "elr": (3.0, float("inf"), "λ of early-learning regularization"),
}
"""Of each loss that has a strength: the source's value, the largest one, and what it is."""


def check_remedies(config: Any) -> None:
    """Raises ValueError where a setting of a `TrainingConfig` is out of range, or has no use beside
    the others."""
    for name, known in (
        ("loss", LOSSES),
        ("sampling", SAMPLINGS),
        ("class_weights", CLASS_WEIGHTS),
    ):
        if getattr(config, name) not in known:
            raise ValueError(
                f"{name} must be one of {', '.join(known)}; got {getattr(config, name)!r}"
            )
    _check_strength(config)
    check_numbers(config, "be finite and at least 0", "logit_adjustment")
    objective = getattr(config.policy, "objective", "loss")
    if config.logit_adjustment and objective != "loss":
        raise ValueError(
            f"policy {config.policy.kind} judges validation images by objective={objective}, which "
            "logit_adjustment does not reach; leave one of them out"
        )
    if config.loss == "elr" and config.policy.kind.startswith("adamixup"):
        raise ValueError(
            f"policy {config.policy.kind} mixes half of a batch within itself, and loss=elr needs "
            "every sample's partner; choose another loss"
        )
    if config.labels is not None and config.label_noise > 0:
        raise ValueError(
            f"label_noise={config.label_noise} would make labels wrong that labels={config.labels} "
            "gives; leave one of them out"
        )
    if config.meta_noise and config.label_noise == 0 and config.labels is None:
        raise ValueError(
            "meta_noise has no use without label_noise or labels; give one, or leave it out"
        )
    if config.meta_noise and config.checked is not None and config.label_noise > 0:
        raise ValueError(
            f"meta_noise makes wrong labels of the images that checked={config.checked} names as "
            "checked; leave one of them out"
        )


def _check_strength(config: Any) -> None:
    strength = config.loss_strength
    if strength is None:
        return
    if config.loss not in STRENGTHS:
        raise ValueError(
            f"loss_strength={strength} has no use with loss={config.loss}; leave it out, or choose "
            f"{', '.join(STRENGTHS)}"
        )
    _, most, what = STRENGTHS[config.loss]
    low_enough = strength <= most and strength < float("inf")
    if not (low_enough and (strength > 0 if config.loss == "gce" else strength >= 0)):
        least = "above 0" if config.loss == "gce" else "at least 0"
        limit = "finite" if most == float("inf") else f"at most {most:g}"
        raise ValueError(f"loss_strength, {what}, must be {least} and {limit}, got {strength}")

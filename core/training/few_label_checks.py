"""What a training with few labels cannot have beside its semi-supervised method."""

from __future__ import annotations

from typing import Any

from core.semi_supervised.config import MIXING_KINDS, SemiSupervisedConfig

LABELED_ALONE = (
    "label_noise",
    "label_noise_kind",
    "imbalance",
    "labels",
    "meta_noise",
    "left_out",
    "loss",
    "loss_strength",
    "sampling",
    "class_weights",
    "logit_adjustment",
    "stop_mixing",
    "equal_steps",
    "folds",
    "fold",
)
"""Settings that a training with few labels has no use for."""


def check_semi(config: Any, semi: SemiSupervisedConfig) -> None:
    """Raises ValueError where a setting of a `TrainingConfig` has no use, or no meaning, beside its
    `semi`."""
    for name in LABELED_ALONE:
        value = getattr(config, name)
        if value != type(config).__dataclass_fields__[name].default:
            raise ValueError(
                f"a semi-supervised training has no use for {name}={value!r}; leave it out"
            )
    if not config.policy.mixes_whole_batch:
        raise ValueError(
            f"policy {config.policy.kind} mixes half of a labeled batch within itself, and a "
            "semi-supervised training cannot interpolate by it"
        )
    if semi.kind == "mixmatch" and not config.policy.blends_inputs:
        raise ValueError(
            f"policy {config.policy.kind} pastes boxes, and MixMatch forwards its samples in "
            "interleaved parts, so it can blend whole inputs only; choose another policy"
        )
    if semi.kind == "mixmatch" and config.policy.follows_training:
        raise ValueError(
            f"policy {config.policy.kind} with carry or sigma repeats each step as one pass over "
            "the batch, and MixMatch forwards its samples in interleaved parts; leave them at 0"
        )
    if config.policy.weights_samples:
        raise ValueError(
            f"policy {config.policy.kind} weights labeled samples and mixes none, and a "
            "semi-supervised training has no use for it; leave it out"
        )
    if config.analysis is not None:
        raise ValueError("a semi-supervised training is not analysed; leave analysis out")
    if semi.kind == "vat" and semi.xi > 0 and config.precision != "float32":
        raise ValueError(
            f"precision={config.precision} rounds a probe of xi={semi.xi} away; leave xi at 0, "
            "which takes the limit, or choose float32"
        )
    if semi.kind not in MIXING_KINDS and config.policy.kind != "none":
        raise ValueError(
            f"{semi.kind} mixes no samples and has no use for the policy {config.policy.kind}; "
            f"{' and '.join(MIXING_KINDS)} do"
        )

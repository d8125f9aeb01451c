"""This package blends a batch: pairing, inputs, labels, and the losses on mixed labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazily

if TYPE_CHECKING:
    from core.mixing.area import AreaMixing
    from core.mixing.batch import (
        Batch,
        Loss,
        check_batch,
        draw_beta,
        draw_partners,
        mix_inputs,
        mix_labels,
        soft_cross_entropy,
        soft_labels,
    )
    from core.mixing.hidden import HiddenMixing
    from core.mixing.interpolation import Interpolation
    from core.mixing.kinds import INPUT, InputMixing, Mixing
    from core.mixing.losses import IndexLoss, MixedLoss, mixed_loss
    from core.mixing.pairing import ANY, Pairing

__all__ = [
    "ANY",
    "INPUT",
    "AreaMixing",
    "Batch",
    "HiddenMixing",
    "IndexLoss",
    "InputMixing",
    "Interpolation",
    "Loss",
    "MixedLoss",
    "Mixing",
    "Pairing",
    "check_batch",
    "draw_beta",
    "draw_partners",
    "mix_inputs",
    "mix_labels",
    "mixed_loss",
    "soft_cross_entropy",
    "soft_labels",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__)

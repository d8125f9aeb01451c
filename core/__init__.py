"""MetaMixUp and the interpolation policies it is compared with, over ordinary PyTorch loops.

The centre is `metamixup_step`: one training step whose λ are learned by hypergradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazily

if TYPE_CHECKING:
    from core.meta.engines.compiled import CompileFallback
    from core.meta.examination import Examination, examine
    from core.meta.gradient import hypergradient
    from core.meta.reading import DEFAULT, PAPER, READINGS, SCORES, Reading
    from core.meta.validation_gradient import ValidationGradient
    from core.metamixup import learn_interpolation, metamixup_step
    from core.mixing.area import AreaMixing
    from core.mixing.batch import (
        draw_beta,
        draw_partners,
        mix_inputs,
        mix_labels,
        soft_cross_entropy,
    )
    from core.mixing.hidden import HiddenMixing
    from core.mixing.interpolation import Interpolation
    from core.mixing.kinds import InputMixing, Mixing
    from core.mixing.losses import IndexLoss, MixedLoss
    from core.mixing.pairing import Pairing
    from core.mixing.real_step import StepResult, mixed_step
    from core.policies.adamixup.policy import AdaMixUp
    from core.policies.amortised import Amortised
    from core.policies.drawn import Beta, CutMix, Fixed, Frozen, NoMix
    from core.policies.learned import Learned
    from core.policies.learned_beta import LearnedBeta
    from core.policies.meta_weight_net import MetaWeightNet
    from core.policies.persistent_scores import PersistentScores, lowest_scores
    from core.policies.persistent_weights import PersistentWeights
    from core.policies.protocol import Policy
    from core.policies.reweighting import LearningToReweight
    from core.user_model.blocks import blocks
    from core.user_model.logits import with_logits

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022  (by subject)
    # The step: what a training loop calls, and what it gets.
    "metamixup_step",
    "mixed_step",
    "with_logits",
    "examine",
    "Examination",
    "StepResult",
    "Reading",
    "DEFAULT",
    "PAPER",
    "READINGS",
    # Policies: who gets which λ. `core.policies` has their configurations.
    "Policy",
    "NoMix",
    "Beta",
    "CutMix",
    "Fixed",
    "Frozen",
    "Learned",
    "LearnedBeta",
    "Amortised",
    "PersistentScores",
    "SCORES",
    "lowest_scores",
    "AdaMixUp",
    "LearningToReweight",
    "MetaWeightNet",
    "PersistentWeights",
    # Mixing: how a batch is blended, and its loss.
    "Interpolation",
    "Mixing",
    "InputMixing",
    "AreaMixing",
    "HiddenMixing",
    "Pairing",
    "IndexLoss",
    "MixedLoss",
    "soft_cross_entropy",
    "mix_inputs",
    "mix_labels",
    # Advanced: the parts that a step is made of.
    "learn_interpolation",
    "hypergradient",
    "ValidationGradient",
    "CompileFallback",
    "blocks",
    "draw_beta",
    "draw_partners",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__)

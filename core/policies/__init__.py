"""Interpolation policies: who gets which λ, one file a method, and what a training says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazily
from core.policies.adamixup.config import AdaMixUpConfig
from core.policies.config import PolicyConfig, policy_from_dict, policy_kinds, register_policy
from core.policies.drawn import Beta, CutMix, Fixed, Frozen, NoMix
from core.policies.frozen_schedule import FrozenSchedule, FrozenScheduleConfig, frozen_control
from core.policies.learned_beta_config import LearnedBetaConfig
from core.policies.learned_config import LearnedConfig, ScoresConfig
from core.policies.sample_weights_config import L2RWConfig, MetaWeightNetConfig

if TYPE_CHECKING:
    from core.meta.reading import SCORES
    from core.policies.adamixup.policy import AdaMixUp
    from core.policies.amortised import Amortised
    from core.policies.carried_beta import CarriedBeta
    from core.policies.evolved_beta import EvolvedBeta
    from core.policies.learned import Learned
    from core.policies.learned_beta import LearnedBeta
    from core.policies.meta_weight_net import MetaWeightNet
    from core.policies.persistent_scores import PersistentScores, lowest_scores
    from core.policies.persistent_weights import PersistentWeights
    from core.policies.protocol import Policy, StepInput
    from core.policies.reweighting import LearningToReweight

__all__ = [
    "SCORES",
    "AdaMixUp",
    "AdaMixUpConfig",
    "Amortised",
    "Beta",
    "CarriedBeta",
    "CutMix",
    "EvolvedBeta",
    "Fixed",
    "Frozen",
    "FrozenSchedule",
    "FrozenScheduleConfig",
    "L2RWConfig",
    "Learned",
    "LearnedBeta",
    "LearnedBetaConfig",
    "LearnedConfig",
    "LearningToReweight",
    "MetaWeightNet",
    "MetaWeightNetConfig",
    "NoMix",
    "PersistentScores",
    "PersistentWeights",
    "Policy",
    "PolicyConfig",
    "ScoresConfig",
    "StepInput",
    "frozen_control",
    "lowest_scores",
    "policy_from_dict",
    "policy_kinds",
    "register_policy",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__)

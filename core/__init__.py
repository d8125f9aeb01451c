"""MetaMixUp and the interpolation policies it is compared with, over ordinary PyTorch loops.

The centre is `metamixup_step`: one training step whose λ are learned by hypergradient.
"""

from core.adamixup import AdaMixUp
from core.amortised import Amortised
from core.area_mixing import AreaMixing
from core.blocks import blocks
from core.engines.compiled import CompileFallback
from core.hidden_mixing import HiddenMixing
from core.hypergradient import hypergradient
from core.interpolation import Interpolation
from core.losses import IndexLoss, MixedLoss
from core.metamixup import StepResult, learn_interpolation, metamixup_step, mixed_step
from core.mixing import draw_beta, draw_partners, mix_inputs, mix_labels, soft_cross_entropy
from core.mixing_kinds import InputMixing, Mixing
from core.pairing import Pairing
from core.persistent_scores import SCORES, PersistentScores, lowest_scores
from core.policies import Beta, Fixed, Frozen, Learned, NoMix, Policy
from core.reading import DEFAULT, PAPER, READINGS, Reading
from core.validation_gradient import ValidationGradient

__all__ = [
    "DEFAULT",
    "PAPER",
    "READINGS",
    "SCORES",
    "AdaMixUp",
    "Amortised",
    "AreaMixing",
    "Beta",
    "CompileFallback",
    "Fixed",
    "Frozen",
    "HiddenMixing",
    "IndexLoss",
    "InputMixing",
    "Interpolation",
    "Learned",
    "MixedLoss",
    "Mixing",
    "NoMix",
    "Pairing",
    "PersistentScores",
    "Policy",
    "Reading",
    "StepResult",
    "ValidationGradient",
    "blocks",
    "draw_beta",
    "draw_partners",
    "hypergradient",
    "learn_interpolation",
    "lowest_scores",
    "metamixup_step",
    "mix_inputs",
    "mix_labels",
    "mixed_step",
    "soft_cross_entropy",
]

"""MetaMixUp and the interpolation policies it is compared with, over ordinary PyTorch loops.

The centre is `metamixup_step`: one training step whose λ are learned by hypergradient.
"""

from core.hypergradient import hypergradient
from core.interpolation import Interpolation
from core.metamixup import StepResult, learn_interpolation, metamixup_step, mixed_step
from core.mixing import (
    draw_beta,
    draw_partners,
    mix_inputs,
    mix_labels,
    soft_cross_entropy,
)
from core.policies import Beta, Fixed, Learned, NoMix, Policy
from core.reading import DEFAULT, PAPER, READINGS, Reading

__all__ = [
    "DEFAULT",
    "PAPER",
    "READINGS",
    "Beta",
    "Fixed",
    "Interpolation",
    "Learned",
    "NoMix",
    "Policy",
    "Reading",
    "StepResult",
    "draw_beta",
    "draw_partners",
    "hypergradient",
    "learn_interpolation",
    "metamixup_step",
    "mix_inputs",
    "mix_labels",
    "mixed_step",
    "soft_cross_entropy",
]

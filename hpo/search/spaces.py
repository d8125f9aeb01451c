"""Search spaces: which settings a search varies, and within which bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Float:
    """A real number in [low, high], searched on a logarithmic scale if `log`.

    What is drawn below `zero_below`, None for nothing, stands for 0.
    """

    low: float
    high: float
    log: bool = False
    zero_below: float | None = None

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got [{self.low}, {self.high}]")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic scale needs low > 0, got {self.low}")

    def with_zero(self) -> Float:
        """Returns it with 0 too, on a logarithmic scale as likely as what is up to 3 × `low`."""
        return replace(self, low=self.low / 3, zero_below=self.low)

    def value(self, drawn: float) -> float:
        """Returns what a drawn number stands for."""
        return 0.0 if self.zero_below is not None and drawn < self.zero_below else drawn


@dataclass(frozen=True)
class Int(Float):
    """A whole number from low to high, both included, searched on a logarithmic scale if `log`."""

    low: int
    high: int


Space = Mapping[str, Float]

BETA_ALPHA: Space = {"alpha": Float(0.05, 8.0, log=True)}
"""α of Beta(α, α): from nearly unmixed to λ close to 1/2."""


LEARNING_RATE: Space = {"lr": Float(0.003, 0.3, log=True)}
"""Learning rate of SGD."""

OPTIMISATION: Space = {
    **LEARNING_RATE,
    "weight_decay": Float(1e-5, 1e-2, log=True),
}
"""Learning rate and weight decay of SGD."""

LEARNED_STEP: Space = {"step_size": Float(0.5, 16.0, log=True)}
"""How far a learned policy moves λ (Eq. 10), around the default reading's 4."""

SCORES_STEP: Space = {"step_size": Float(0.05, 2.0, log=True)}
"""How far a meta stage moves persistent scores, which add up: half the default of 0.1 and more."""

WEIGHT_NET_RATES: Space = {**LEARNING_RATE, "net_lr": Float(1e-4, 0.1, log=True)}
"""Learning rate of SGD, and that of Meta-Weight-Net's network, around its source's 1e-3."""

LOSS_STRENGTHS: Mapping[str, Space] = {
    "logit-adjusted": {"loss_strength": Float(0.25, 4.0, log=True)},
    "smoothed": {"loss_strength": Float(0.01, 0.5, log=True)},
    "gce": {"loss_strength": Float(0.05, 1.0)},
    "elr": {"loss_strength": Float(0.5, 15.0, log=True)},
}
"""The strength of each loss of `TrainingConfig.loss` that has one, around its source's value."""

LOGIT_ADJUSTMENT: Space = {"logit_adjustment": Float(0.25, 4.0, log=True)}
"""τ of post-hoc logit adjustment, around its source's 1."""

ALPHA_REACH: Space = {"reach": Float(1.0, 20.0, log=True)}
"""How far α that is learned may go in all, in units of log α, around its default of 6."""

UNLABELLED_WEIGHT: Space = {"weight": Float(1.0, 250.0, log=True)}
"""The weight of the term of images without labels: of Π-Model 20, Mean Teacher 8 and 50, MixMatch
75 and 250 in their sources."""

PERTURBATION: Space = {"epsilon": Float(0.1, 10.0, log=True)}
"""How long VAT's perturbation is, around its source's 6 of an image's norm of 55."""

THRESHOLD: Space = {"threshold": Float(0.5, 0.99)}
"""How sure a network has to be of a pseudo-label, around the paper's 0.95."""

THRESHOLD_STEP: Space = {"threshold_step": Float(0.005, 0.3, log=True)}
"""σd, by which APL's threshold falls, around the paper's 0.05."""


def threshold_fall(epochs: int) -> Space:
    """Returns how the threshold of pseudo-labels may fall: by σd, every K of so many epochs."""
    return {
        **THRESHOLD_STEP,
        "threshold_period": Int(1, max(2, epochs // 2), log=True),
    }


def suggest(trial: optuna.Trial, space: Space) -> dict[str, float]:
    """Returns one value for each name, suggested by Optuna's trial; an int from an `Int`."""
    return {
        name: trial.suggest_int(name, d.low, d.high, log=d.log)
        if isinstance(d, Int)
        else d.value(trial.suggest_float(name, d.low, d.high, log=d.log))
        for name, d in space.items()
    }

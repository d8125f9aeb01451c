"""This module holds a semi-supervised method's settings as a dataclass of plain values."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

from core.policies.plain_settings import check_kinds, check_numbers
from core.semi_supervised.ramp import Ramp, ramp

SemiKind = Literal["supervised", "pi-model", "mean-teacher", "vat", "pseudo-label", "mixmatch"]
SEMI_KINDS: tuple[SemiKind, ...] = get_args(SemiKind)

ThresholdFormula = Literal["per-period", "literal"]

_WEIGHTED = ("unlabelled_batch", "weight", "ramp", "ramp_share")
NEEDED: dict[SemiKind, tuple[str, ...]] = {
    "supervised": ("unlabelled_batch",),
    "pi-model": _WEIGHTED,
    "mean-teacher": (*_WEIGHTED, "ema"),
    "vat": (*_WEIGHTED, "epsilon", "xi", "power_iterations", "entropy"),
    "pseudo-label": (
        *_WEIGHTED,
        "threshold",
        "threshold_step",
        "threshold_period",
        "threshold_formula",
    ),
    "mixmatch": (*_WEIGHTED, "ema", "temperature", "augmentations", "dominant"),
}
"""What each kind has a use for, beside its number of labelled images."""

MIXING_KINDS: tuple[SemiKind, ...] = ("pseudo-label", "mixmatch")
"""The kinds that mix samples, by the policy of the training; the others mix none."""


@dataclass(frozen=True)
class SemiSupervisedConfig:
    """This names a method and what it needs, nothing else.

    Attributes:
        kind: "supervised" (the labelled images alone), "pi-model", "mean-teacher", "vat",
            "pseudo-label" (with threshold_step > 0 asynchronous: APL), "mixmatch".
        labelled: labelled training images, class-balanced; all others are unlabelled.
        unlabelled_batch: unlabelled images of a step; None is the training's batch_size. It sets
            the length of an epoch, of "supervised" too.
        weight: of the unlabelled term; MixMatch's λ_U.
        ramp, ramp_share: how the weight comes up from 0, over which share of the training:
            "linear", "sigmoid" (exp(−5(1−x)²)), or not at all.
        ema: decay of the moving average of the weights: the teacher of "mean-teacher", what is
            evaluated of both. Needed by both. It remembers some 1/(1 − ema) steps: where the
            training has few times as many, it still holds the initial weights, and errs by them.
        threshold: least probability of a pseudo-label that is accepted (σ0).
        threshold_step, threshold_period: σd and K: it falls by σd every K epochs.
        threshold_formula: "per-period", Algorithm 2, or the text's "literal" one; see
            `core.semi_supervised.threshold`.
        epsilon, xi, power_iterations: of VAT: length of the perturbation, of the probe (0: the
            limit; see `core.semi_supervised.vat.virtual_adversarial_direction`), and how often it
            is refined.
        entropy: weight of entropy minimization beside VAT's term (VAT + EM).
        temperature, augmentations: of MixMatch: T of sharpening, K views of each unlabelled image.
        dominant: of MixMatch: λ lies in [1/2, 1]; see `core.mixing.pairing.Pairing`.

    Examples:
        >>> from core.semi_supervised import SemiSupervisedConfig
        >>> SemiSupervisedConfig("mean-teacher", labelled=40, ema=0.99).ema
        0.99
    """

    kind: SemiKind
    labelled: int
    unlabelled_batch: int | None = None
    weight: float = 1.0
    ramp: Ramp = "none"
    ramp_share: float = 0.0
    ema: float | None = None
    threshold: float = 0.95
    threshold_step: float = 0.0
    threshold_period: int = 30
    threshold_formula: ThresholdFormula = "per-period"
    epsilon: float = 6.0
    xi: float = 0.0
    power_iterations: int = 1
    entropy: float = 0.0
    temperature: float = 0.5
    augmentations: int = 2
    dominant: bool = True

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.kind not in SEMI_KINDS:
            raise ValueError(f"semi kind must be one of {', '.join(SEMI_KINDS)}; got {self.kind!r}")
        needed = ("kind", "labelled", *NEEDED[self.kind])
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in needed and value != field.default:
                raise ValueError(f"{self.kind} has no use for {field.name}={value!r}; leave it out")
        counts = ("labelled", "threshold_period", "power_iterations", "augmentations")
        check_numbers(self, "be at least 1", *counts)
        check_numbers(self, "be None or at least 1", "unlabelled_batch")
        weights = ("weight", "threshold_step", "xi", "entropy")
        check_numbers(self, "be finite and at least 0", *weights)
        check_numbers(self, "be positive and finite", "epsilon", "temperature")
        check_numbers(self, "lie in [0, 1]", "threshold")
        if self.ramp not in get_args(Ramp):
            raise ValueError(f"ramp must be one of {', '.join(get_args(Ramp))}; got {self.ramp!r}")
        if not 0 <= self.ramp_share <= 1 or (self.ramp == "none") != (self.ramp_share == 0):
            raise ValueError(
                f"ramp_share must lie in (0, 1] with a ramp and be 0 without, got "
                f"{self.ramp_share} with ramp={self.ramp!r}"
            )
        if "ema" in needed and (self.ema is None or not 0 <= self.ema < 1):
            raise ValueError(f"{self.kind} needs ema in [0, 1), got {self.ema}")
        if self.threshold_formula not in get_args(ThresholdFormula):
            raise ValueError(
                f"threshold_formula must be one of {', '.join(get_args(ThresholdFormula))}; got "
                f"{self.threshold_formula!r}"
            )

    def weight_at(self, progress: float) -> float:
        """Returns the unlabelled term's weight when so much of the training, in [0, 1], is done."""
        return self.weight * ramp(self.ramp, progress, self.ramp_share)

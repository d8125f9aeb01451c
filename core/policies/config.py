"""Which interpolation policy a training takes, as a frozen dataclass that turns into plain JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Literal, get_args

from core.meta.reading import DEFAULT, Reading
from core.meta.validation_gradient import ValidationGradient
from core.models import ImageClassifier
from core.policies.adamixup.policy import AdaMixUp
from core.policies.amortised import Amortised
from core.policies.drawn import Beta, Fixed, Frozen, NoMix, check_quantiles
from core.policies.learned import Learned
from core.policies.persistent_scores import SCORES, PersistentScores
from core.policies.protocol import Policy

PolicyKind = Literal[
    "none",
    "beta",
    "fixed",
    "frozen",
    "learned",
    "placebo",
    "scores",
    "scores-placebo",
    "adamixup",
    "adamixup-no-discriminator",
]

_READINGS: Mapping[str, Reading] = {
    "learned": DEFAULT,
    "placebo": DEFAULT,
    "scores": SCORES,
    "scores-placebo": SCORES,
}
"""The kinds that learn, and how each does by default."""

DISCRIMINATOR: Mapping[str, bool] = {"adamixup": True, "adamixup-no-discriminator": False}
"""The kinds that have networks of their own, and which of them discriminates."""


@dataclass(frozen=True)
class PolicyConfig:
    """Which interpolation policy, with what it needs and nothing else.

    Attributes:
        kind: "none", "beta" (needs alpha), "fixed" (needs lam), "frozen" (needs quantiles); those
            that learn (reading): "learned" and its "placebo", and with a score for each training
            sample "scores" and "scores-placebo"; those that have networks of their own: "adamixup"
            and, without its intrusion discriminator, "adamixup-no-discriminator"; with quantiles
            these two do not learn where λ lies.
        alpha: of Beta(alpha, alpha).
        per_sample: one draw for each sample instead of one for the batch.
        lam: the fixed λ.
        quantiles: of the distribution that "frozen" draws λ from, see `Frozen`, and either kind of
            AdaMixUp, see `AdaMixUp`.
        last_blocks, refresh_every, every: the cheaper meta stages of a learned policy: through the
            last blocks of the network alone; the validation gradient computed at every k-th stage;
            a stage at every k-th step, λ between predicted or that of the scores. See `Learned`,
            `Amortised` and `PersistentScores`.
        reading: of a policy that learns. None becomes the kind's default reading, field by field,
            so that a stored configuration says what was trained even when the default has moved on.
    """

    kind: PolicyKind
    alpha: float | None = None
    per_sample: bool = False
    lam: float | None = None
    reading: Reading | None = None
    last_blocks: int | None = None
    refresh_every: int = 1
    every: int = 1
    quantiles: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.reading is None and self.kind in _READINGS:
            object.__setattr__(self, "reading", _READINGS[self.kind])
        if self.kind not in DISCRIMINATOR:
            self.build()
        elif self.quantiles is not None:
            check_quantiles(self.quantiles)
        needed = {
            "none": (),
            **dict.fromkeys(DISCRIMINATOR, ("quantiles",)),
            "beta": ("alpha", "per_sample"),
            "fixed": ("lam",),
            "frozen": ("quantiles",),
        }.get(self.kind, ("reading", "last_blocks", "refresh_every", "every"))
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if field.name not in needed and value != field.default:
                raise ValueError(
                    f"policy {self.kind} has no use for {field.name}={value!r}; leave it out"
                )

    def build(self, network: Callable[[], ImageClassifier] | None = None) -> Policy:
        """The policy itself.

        Args:
            network: makes a network like the one to train, with weights of its own. The kinds that
                have networks of their own need it.

        Raises:
            ValueError: the kind is unknown, a value it needs is missing or out of range.
        """
        if self.kind == "none":
            return NoMix()
        if self.kind == "beta":
            if self.alpha is None:
                raise ValueError("policy beta needs alpha, got None")
            return Beta(self.alpha, self.per_sample)
        if self.kind == "fixed":
            if self.lam is None:
                raise ValueError("policy fixed needs lam, got None")
            return Fixed(self.lam)
        if self.kind == "frozen":
            if self.quantiles is None:
                raise ValueError("policy frozen needs quantiles, got None")
            return Frozen(self.quantiles)
        if self.kind in _READINGS:
            return self._learned()
        if self.kind in DISCRIMINATOR:
            if network is None:
                raise ValueError(f"policy {self.kind} has a network of its own and needs `network`")
            discriminator = DISCRIMINATOR[self.kind]
            return AdaMixUp(network(), discriminator=discriminator, quantiles=self.quantiles)
        raise ValueError(
            f"policy kind must be one of {', '.join(get_args(PolicyKind))}; got {self.kind!r}"
        )

    def _learned(self) -> Policy:
        if self.last_blocks is not None and self.last_blocks < 1:
            raise ValueError(f"last_blocks must be None or at least 1, got {self.last_blocks}")
        kept = ValidationGradient(self.refresh_every)
        reading = self.reading or _READINGS[self.kind]
        validation_gradient = kept if self.refresh_every > 1 else None
        if self.kind in ("scores", "scores-placebo"):
            return PersistentScores(
                reading,
                every=self.every,
                placebo=self.kind == "scores-placebo",
                last_blocks=self.last_blocks,
                validation_gradient=validation_gradient,
            )
        learned = Learned(
            reading,
            placebo=self.kind == "placebo",
            last_blocks=self.last_blocks,
            validation_gradient=validation_gradient,
        )
        amortised = Amortised(learned, every=self.every)
        return amortised if self.every > 1 else learned

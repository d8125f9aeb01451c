"""The configurations of the policies that have a meta stage, and of their placebos."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from core.meta.reading import DEFAULT, SCORES, Reading, check_reading
from core.meta.validation_gradient import ValidationGradient
from core.policies.config import MetaConfig, PolicyConfig, register_policy
from core.policies.drawn import Frozen
from core.policies.limits import check_scores
from core.policies.plain_settings import check_numbers

if TYPE_CHECKING:
    from core.models import ImageClassifier
    from core.policies.amortised import Amortised
    from core.policies.learned import Learned
    from core.policies.persistent_scores import PersistentScores


@dataclass(frozen=True)
class MetaStageConfig(MetaConfig):
    """What the policies with a meta stage have in common.

    Attributes:
        reading: what the paper leaves open; see `Reading`. It is stored in whole, so that a stored
            configuration says what was trained even when the default has moved on.
        last_blocks: the hypergradient goes through the last so many blocks alone; None: all.
        refresh_every: k ≥ 1; the validation gradient is computed at every k-th meta stage.
        every: k ≥ 1; a meta stage at every k-th step. λ between is predicted, or that of the
            scores; see `Amortised` and `PersistentScores`.
        permute: the control: hypergradients are permuted within the batch before they move λ.
    """

    reading: Reading = DEFAULT
    last_blocks: int | None = None
    refresh_every: int = 1
    every: int = 1
    permute: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_reading(self.reading)
        check_numbers(self, "be at least 1", "every")
        ValidationGradient(self.refresh_every)

    def cost_with(self, meta_stage: float) -> float:
        return 1.0 + meta_stage / self.every

    def frozen(self, quantiles: tuple[float, ...]) -> Frozen:
        return Frozen(quantiles)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> PolicyConfig:
        given = dict(values)
        if given.get("reading") is not None:
            given["reading"] = Reading(**given["reading"])
        return super().from_values(given)

    def _kept_gradient(self) -> ValidationGradient | None:
        return ValidationGradient(self.refresh_every) if self.refresh_every > 1 else None


@register_policy
@dataclass(frozen=True)
class LearnedConfig(MetaStageConfig):
    """MetaMixUp: λ learned anew in each batch; see `Learned` and `Amortised`.

    Examples:
        >>> import core
        >>> config = core.policies.LearnedConfig(reading=core.DEFAULT)
        >>> config.learns, config.placebo().to_dict()["kind"]
        (True, 'placebo')
    """

    kinds: ClassVar = {"learned": {"permute": False}, "placebo": {"permute": True}}

    def build(self, network: Callable[[], ImageClassifier] | None = None) -> Learned | Amortised:
        from core.policies.amortised import Amortised
        from core.policies.learned import Learned

        learned = Learned(
            self.reading,
            placebo=self.permute,
            last_blocks=self.last_blocks,
            validation_gradient=self._kept_gradient(),
        )
        return Amortised(learned, every=self.every) if self.every > 1 else learned


@register_policy
@dataclass(frozen=True)
class ScoresConfig(MetaStageConfig):
    """A score for each training sample, moved by hypergradient; see `PersistentScores`.

    Attributes:
        mixing: "input" blends whole images, as MixUp; "area" pastes boxes, as CutMix.
        exchange: the control: each sample is mixed by the score of another one.

    Examples:
        >>> import core
        >>> core.policies.ScoresConfig(mixing="area").to_dict()["kind"]
        'scores-area'
    """

    reading: Reading = SCORES
    mixing: Literal["input", "area"] = "input"
    exchange: bool = False
    kinds: ClassVar = {
        f"scores{of_area}{control}": {"permute": permute, "mixing": mixing, "exchange": exchange}
        for of_area, mixing in (("", "input"), ("-area", "area"))
        for control, permute, exchange in (
            ("", False, False),
            ("-placebo", True, False),  # an earlier one
            ("-exchanged", False, True),
        )
    }
    placebo_setting = "scores of other samples"

    def __post_init__(self) -> None:
        if self.mixing not in ("input", "area"):
            raise ValueError(f"mixing of scores must be input or area, got {self.mixing!r}")
        super().__post_init__()
        if self.permute and self.exchange:
            raise ValueError("scores have one placebo: permute or exchange; leave one of them out")
        check_scores(self.reading, self.every)

    def frozen(self, quantiles: tuple[float, ...]) -> Frozen:
        if self.mixing != "input":
            raise ValueError(f"policy {self.kind} has no frozen control, which blends whole images")
        return super().frozen(quantiles)

    @property
    def blends_inputs(self) -> bool:
        return self.mixing == "input"

    def placebo(self) -> ScoresConfig:
        if self.permute or self.exchange:
            raise ValueError(f"policy {self.kind} has no placebo: it is one")
        return replace(self, exchange=True)

    def build(self, network: Callable[[], ImageClassifier] | None = None) -> PersistentScores:
        from core.mixing import INPUT, AreaMixing
        from core.policies.persistent_scores import PersistentScores

        return PersistentScores(
            self.reading,
            every=self.every,
            placebo=self.exchange,
            permute=self.permute,
            mixing=INPUT if self.mixing == "input" else AreaMixing(),
            last_blocks=self.last_blocks,
            validation_gradient=self._kept_gradient(),
        )

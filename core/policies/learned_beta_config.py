"""The configuration of `LearnedBeta`, and of its placebo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar

from core.meta.objectives import Objective
from core.policies.config import MetaConfig, register_policy
from core.policies.drawn import Frozen
from core.policies.limits import Begin, Path, check_carry, check_evolution, check_learned_beta

if TYPE_CHECKING:
    from core.models import ImageClassifier
    from core.policies.learned_beta import LearnedBeta

_LATE = 0.4
"""The part of a training in which it learns with `begin="auto"`, roughly: on a cosine schedule."""

_CARRIED = 2.3
"""What a step costs more whose derivative is carried along, in units of a plain step."""


@register_policy
@dataclass(frozen=True)
class LearnedBetaConfig(MetaConfig):
    """α of Beta(α, α) learned late in the training; see `LearnedBeta`.

    Attributes:
        permute: the control: the sign of each derivative is drawn at random.
        carry: 0 looks one step ahead; above, the derivative of the weights is carried from step to
            step; see `CarriedBeta`.
        sigma: 0 takes a derivative; above, α is moved by evolution, see `EvolvedBeta`.
        path: what `EvolvedBeta` learns, the two ends of a schedule or when to stop.

    Examples:
        >>> import core
        >>> core.policies.LearnedBetaConfig(alpha=0.5, begin=0.5).build().alpha
        0.5
    """

    alpha: float = 1.0
    begin: Begin = "auto"
    every: int = 8
    reach: float = 6.0
    bounds: tuple[float, float] = (0.01, 10.0)
    average_over: int = 8
    objective: Objective = "loss"
    per_sample: bool = True
    stratified: bool = False
    last_blocks: int | None = None
    permute: bool = False
    carry: float = 0.0
    sigma: float = 0.0
    path: Path = "ends"
    kinds: ClassVar = {
        "learned-beta": {"permute": False},
        "learned-beta-placebo": {"permute": True},
    }
    placebo_setting = "sign of the derivative drawn"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_learned_beta(self)
        if self.sigma and self.carry:
            raise ValueError(
                f"carry={self.carry} and sigma={self.sigma} are two ways to look ahead; leave one "
                "at 0"
            )
        if self.carry:
            check_carry(self.carry)
        if self.sigma:
            check_evolution(self.sigma, self.path, self.last_blocks)
        elif self.path != "ends":
            raise ValueError(f"path={self.path!r} is what evolution learns; give sigma too")

    def build(self, network: Callable[[], ImageClassifier] | None = None) -> LearnedBeta:
        from core.policies.carried_beta import CarriedBeta
        from core.policies.evolved_beta import EvolvedBeta
        from core.policies.learned_beta import LearnedBeta

        apart = ("permute", "carry", "sigma", "path")
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in apart}
        settings["placebo"] = self.permute
        if self.carry:
            return CarriedBeta(**settings, carry=self.carry)
        if self.sigma:
            return EvolvedBeta(**settings, sigma=self.sigma, path=self.path)
        return LearnedBeta(**settings)

    @property
    def follows_training(self) -> bool:
        return bool(self.carry or self.sigma)

    def cost_with(self, meta_stage: float) -> float:
        part = _LATE if isinstance(self.begin, str) else 1 - self.begin
        if self.carry:
            return 1.0 + part * (_CARRIED + 1 / self.every)
        if self.sigma:
            return 1.0 + 2 * part
        return 1.0 + part * meta_stage / self.every

    def frozen(self, quantiles: tuple[float, ...]) -> Frozen:
        if not self.per_sample:
            raise ValueError(
                f"policy {self.kind} with per_sample=False has no frozen control, which draws a λ "
                "for each sample"
            )
        return Frozen(quantiles)

"""The configuration of AdaMixUp."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from core.policies.config import PolicyConfig, register_policy
from core.policies.drawn import check_quantiles

if TYPE_CHECKING:
    from core.models import ImageClassifier
    from core.policies.adamixup.policy import AdaMixUp


@register_policy
@dataclass(frozen=True)
class AdaMixUpConfig(PolicyConfig):
    """λ from a region that a network chooses for each pair; see `AdaMixUp`.

    Attributes:
        quantiles: of the distribution that λ is drawn from where the region is not learned.
        discriminator: whether an intrusion discriminator guards the region.

    Examples:
        >>> import core
        >>> core.policies.AdaMixUpConfig().to_dict()["kind"]
        'adamixup'
    """

    quantiles: tuple[float, ...] | None = None
    discriminator: bool = True
    kinds: ClassVar = {
        "adamixup": {"discriminator": True},
        "adamixup-no-discriminator": {"discriminator": False},
    }
    mixes_whole_batch = False

    def __post_init__(self) -> None:
        if self.quantiles is not None:
            check_quantiles(self.quantiles)

    def cost_with(self, meta_stage: float) -> float:
        """See `PolicyConfig`. Counted are the samples that a step sends forward and back."""
        samples = 3.0 if self.discriminator else 1.5
        # Given quantiles it has no generator, which half of the batch would pass.
        return samples - 0.5 * (self.quantiles is not None)

    def frozen(self, quantiles: tuple[float, ...]) -> AdaMixUpConfig:
        """See `PolicyConfig`. All but the region of λ is as it was."""
        return replace(self, quantiles=quantiles)

    def build(self, network: Callable[[], ImageClassifier] | None = None) -> AdaMixUp:
        from core.policies.adamixup.policy import AdaMixUp

        if network is None:
            raise ValueError(f"policy {self.kind} has a network of its own and needs `network`")
        return AdaMixUp(network(), discriminator=self.discriminator, quantiles=self.quantiles)

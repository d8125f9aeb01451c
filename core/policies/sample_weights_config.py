"""The configurations of the policies that weight samples, and of their placebos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from core.policies.config import MetaConfig, register_policy
from core.policies.limits import check_net

if TYPE_CHECKING:
    from core.models import ImageClassifier
    from core.policies.meta_weight_net import MetaWeightNet
    from core.policies.reweighting import LearningToReweight


@dataclass(frozen=True)
class SampleWeightsConfig(MetaConfig):
    """What the configurations of policies that learn weights have in common.

    Attributes:
        permute: the control: see `SampleWeights`.
        last_blocks: see `SampleWeights`.
    """

    permute: bool = False
    last_blocks: int | None = None
    weights_samples: ClassVar[bool] = True
    placebo_setting: ClassVar[str] = "weights permuted"

    def cost_with(self, meta_stage: float) -> float:
        return 1.0 + meta_stage


@register_policy
@dataclass(frozen=True)
class L2RWConfig(SampleWeightsConfig):
    """Learning to Reweight; see `LearningToReweight`.

    Examples:
        >>> import core
        >>> core.policies.L2RWConfig().placebo().to_dict()["kind"]
        'l2rw-placebo'
    """

    kinds: ClassVar = {"l2rw": {"permute": False}, "l2rw-placebo": {"permute": True}}

    def build(self, network: Callable[[], ImageClassifier] | None = None) -> LearningToReweight:
        from core.policies.reweighting import LearningToReweight

        return LearningToReweight(placebo=self.permute, last_blocks=self.last_blocks)


@register_policy
@dataclass(frozen=True)
class MetaWeightNetConfig(SampleWeightsConfig):
    """A network from a sample's loss to its weight; see `MetaWeightNet`.

    Attributes:
        hidden, net_lr, net_weight_decay: `hidden`, `lr` and `weight_decay` of `MetaWeightNet`.

    Examples:
        >>> import core
        >>> core.policies.MetaWeightNetConfig(hidden=20).to_dict()["kind"]
        'meta-weight-net'
    """

    hidden: int = 100
    net_lr: float = 1e-3
    net_weight_decay: float = 1e-4
    kinds: ClassVar = {
        "meta-weight-net": {"permute": False},
        "meta-weight-net-placebo": {"permute": True},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_net(self.hidden, self.net_lr, self.net_weight_decay)

    def cost_with(self, meta_stage: float) -> float:
        """See `PolicyConfig`. Its own forward pass is about a third of a step."""
        return super().cost_with(meta_stage) + 1 / 3

    def build(self, network: Callable[[], ImageClassifier] | None = None) -> MetaWeightNet:
        from core.policies.meta_weight_net import MetaWeightNet

        return MetaWeightNet(
            placebo=self.permute,
            last_blocks=self.last_blocks,
            hidden=self.hidden,
            lr=self.net_lr,
            weight_decay=self.net_weight_decay,
        )

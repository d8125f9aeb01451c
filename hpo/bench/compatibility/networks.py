"""This module lists networks of torchvision, one or two of a family, made small by their inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from core.user_model.logits import LogitsOf


@dataclass(frozen=True)
class Network:
    """This is a network by its name in torchvision, the side of its images, and what it is given.

    Attributes:
        side: pixels; images are squares of three channels.
        options: of its constructor, besides ten classes and no weights.
        logits_of: how the logits are taken from what it returns.
    """

    side: int
    options: dict[str, Any] = field(default_factory=dict)
    logits_of: LogitsOf | None = None

    def make(self, name: str) -> nn.Module:
        """Returns it untrained, in training mode."""
        from core.data.torchvision_compat import torchvision

        model: nn.Module = getattr(torchvision.models, name)(num_classes=10, **self.options)
        return model


_AUXILIARY = {"init_weights": False}

NETWORKS: dict[str, Network] = {
    "alexnet": Network(64),
    "resnet18": Network(64),
    "resnet50": Network(64),
    "resnext50_32x4d": Network(64),
    "wide_resnet50_2": Network(64),
    "densenet121": Network(64),
    "squeezenet1_1": Network(64),
    "googlenet": Network(64, _AUXILIARY, "logits"),
    "inception_v3": Network(96, {**_AUXILIARY, "aux_logits": False}),
    "shufflenet_v2_x0_5": Network(64),
    "mobilenet_v2": Network(64),
    "mobilenet_v3_small": Network(64),
    "mobilenet_v3_large": Network(64),
    "mnasnet0_5": Network(64),
    "efficientnet_b0": Network(64),
    "efficientnet_v2_s": Network(64),
    "regnet_x_400mf": Network(64),
    "regnet_y_400mf": Network(64),
    "convnext_tiny": Network(64),
    "vit_b_16": Network(64, {"image_size": 64}),
    "swin_t": Network(64),
    "swin_v2_t": Network(64),
}
"""By their names in `torchvision.models`."""

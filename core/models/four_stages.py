"""This module builds residual networks of four stages, whatever their block."""

from __future__ import annotations

from typing import ClassVar

import torch.nn as nn
from torch import Tensor

from core.models.classifier import ImageClassifier


class FourStages(ImageClassifier):
    """The base has a 3x3 stem, four stages (He et al., CVPR 2016, Table 1), and a global mean.

    Any input size works; at 32x32 the last stage has 4x4. In training mode a batch of one needs
    more than 8 pixels, or the last BatchNorm has a single value.

    Args:
        in_channels, num_classes, image_size: see :class:`ImageClassifier`; images of at least 8
            pixels.
        width: channels of the stem and of the first stage (inside of its blocks); the later stages
            have 2, 4, 8 times as many.
        blocks: blocks of each of the four stages.

    Attributes:
        block: makes one of (channels in, channels, stride).
        expansion: channels that come out of a block, over `channels`.
    """

    block: ClassVar[type[nn.Module]]
    expansion: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: int,
        width: int = 64,
        *,
        blocks: tuple[int, int, int, int],
    ) -> None:
        super().__init__(in_channels, num_classes, image_size, width, minimum_size=8)
        stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        layers: list[nn.Module] = [stem, *self.after_stem(width)]
        channels = width
        for stage, count in enumerate(blocks):
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                layers.append(type(self).block(channels, width * 2**stage, stride))
                channels = self.expansion * width * 2**stage
        self.trunk = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)
        self.initialize()

    def initialize(self) -> None:
        """Draws weights anew, where PyTorch's defaults are not wanted."""

    def after_stem(self, width: int) -> list[nn.Module]:
        """Returns what comes between stem and first stage."""
        return []

    def features(self, x: Tensor) -> Tensor:
        maps: Tensor = self.trunk(x)
        return maps.mean(dim=(2, 3))

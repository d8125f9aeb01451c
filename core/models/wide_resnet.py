"""This module holds wide residual networks (WRN-depth-k) for small images."""

from __future__ import annotations

import torch.nn as nn
from torch import Tensor

from core.models.classifier import ImageClassifier, initialize_he
from core.models.preact_resnet import PreActBlock, activate


class WideResNet(ImageClassifier):
    """This is WRN-depth-k (Zagoruyko and Komodakis, "Wide Residual Networks", 2016, Table 1).

    A 3x3 stem, three groups of (depth - 4) / 6 blocks, BN-ReLU, global average pooling. No
    dropout, which is an option there. He initialization (fan-out), as in their code.

    The semi-supervised literature (Oliver et al., NeurIPS 2018; MixMatch) runs WRN-28-2 with
    LeakyReLU of slope 0.1 in place of ReLU: ``negative_slope=0.1``. Oliver et al.'s code differs in
    one more detail that is not taken over: in groups two and three the 1x1 shortcut reads the input
    before its activation.

    Input ``[B, in_channels, h, w]``; any size works, at 32x32 the last group has 8x8. In training
    mode a batch of one needs more than 4 pixels, or the last BatchNorm has a single value.
    Features: D = 4 * width * widen_factor (640 for k = 10, 128 for k = 2), non-negative with ReLU.
    Parameters for 3 channels and 10 classes: 36,479,194 (WRN-28-10), 1,467,610 (WRN-28-2).

    Args:
        in_channels, num_classes, image_size: see :class:`ImageClassifier`; images of at least 4
            pixels.
        width: channels of the stem; the groups have k, 2k, 4k times as many. 16 is published.
        depth: 6n + 4, the number of convolutions on the longest path and the classifier.
        widen_factor: k.
        negative_slope: slope of every activation below zero.

    Raises:
        ValueError: depth is not 6n + 4, or an argument is below its limit.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: int,
        width: int = 16,
        *,
        depth: int,
        widen_factor: int,
        negative_slope: float = 0.0,
    ) -> None:
        super().__init__(in_channels, num_classes, image_size, width, minimum_size=4)
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth must be 6n + 4 with n >= 1 (10, 16, 22, 28), got {depth}")
        self.negative_slope = negative_slope
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1, bias=False)]
        channels = width
        for group in range(3):
            for block in range((depth - 4) // 6):
                stride = 2 if group > 0 and block == 0 else 1
                out_channels = width * widen_factor * 2**group
                layers.append(PreActBlock(channels, out_channels, stride, negative_slope))
                channels = out_channels
        layers.append(nn.BatchNorm2d(channels))
        self.trunk = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)
        initialize_he(self.trunk, mode="fan_out")
        nn.init.zeros_(self.classifier.bias)

    def features(self, x: Tensor) -> Tensor:
        maps = activate(self.trunk(x), self.negative_slope)
        return maps.mean(dim=(2, 3))

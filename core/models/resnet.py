"""This module holds residual networks of bottleneck blocks for small images (50 layers)."""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

from core.models.classifier import initialize_he
from core.models.four_stages import FourStages


class Bottleneck(nn.Module):
    """A block has 1x1, 3x3, 1x1 convolutions and a shortcut (He et al., CVPR 2016, Fig. 5 right).

    The output has four times ``channels``. The stride is in the 3x3 convolution, as in
    pytorch-cifar and torchvision (the paper has it in the first 1x1). Where the shape changes, the
    shortcut is a projection with BatchNorm (option B, section 4.1).

    ``[B, in_channels, h, w]`` to ``[B, 4 * channels, ceil(h / stride), ceil(w / stride)]``.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = 4 * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.bn1(self.conv1(x)))
        hidden = torch.relu(self.bn2(self.conv2(hidden)))
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return torch.relu(shortcut + self.bn3(self.conv3(hidden)))


class ResNet(FourStages):
    """This is the bottleneck ResNet for small images, the ResNet-50 of Fig. 2 (CIFAR-10).

    He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition" (CVPR 2016), Table 1,
    with the stem for small images of pytorch-cifar: one 3x3 convolution of stride 1 and no
    max-pool. He initialization (fan-out); their section 3.4 asks for it.

    Features: D = 32 * width (2048), non-negative. Parameters: 23,520,842 for 3 channels, 10 classes
    and ``blocks=(3, 4, 6, 3)``.
    """

    block = Bottleneck
    expansion = 4

    def initialize(self) -> None:
        initialize_he(self.trunk, mode="fan_out")

    def after_stem(self, width: int) -> list[nn.Module]:
        return [nn.BatchNorm2d(width), nn.ReLU()]

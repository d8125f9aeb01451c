"""This module holds pre-activation residual networks for small images (18 and 34 layers)."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from core.models.four_stages import FourStages


class PreActBlock(nn.Module):
    """A block is ``shortcut(x) + conv(act(bn(conv(act(bn(x))))))`` (He et al. 2016, Fig. 4e).

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input (the weights
    then share one activation); elsewhere it is x itself. It is the B(3,3) block of wide networks
    too (Zagoruyko and Komodakis 2016, section 2, Fig. 1c).

    ``[B, in_channels, h, w]`` to ``[B, out_channels, ceil(h / stride), ceil(w / stride)]``.

    Args:
        negative_slope: of the activation below zero; 0 is ReLU.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, negative_slope: float = 0.0
    ) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = activate(self.bn1(x), self.negative_slope)
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        hidden = activate(self.bn2(self.conv1(activated)), self.negative_slope)
        residual: Tensor = self.conv2(hidden)
        return shortcut + residual


def activate(x: Tensor, negative_slope: float) -> Tensor:
    """Returns LeakyReLU of x, or ReLU where the slope is 0."""
    return F.leaky_relu(x, negative_slope) if negative_slope else torch.relu(x)


class PreActResNet(FourStages):
    """This is PreActResNet for small images as in the MixUp experiments: no final BN-ReLU.

    He, Zhang, Ren and Sun, "Identity Mappings in Deep Residual Networks" (ECCV 2016), with the four
    stages of ResNet-18 and -34 (He et al., CVPR 2016, Table 1), a 3x3 stem of stride 1 and no
    max-pool. He et al. end the network with BN-ReLU; the code behind the CIFAR-10 tables of MixUp
    and AdaMixUp (pytorch-cifar, mixup-cifar10, SITE5039/AdaMixUp) leaves them out, and so does this
    one: the pooled sum goes straight to the classifier. mixup-cifar10 differs in two more details
    that are not taken over: BN-ReLU after the stem, and shortcuts that all start behind the first
    activation. Initialized by PyTorch's defaults, as in those repositories.

    Features: D = 8 * width (512), of either sign. Parameters for 3 channels and 10 classes:
    11,171,146 with ``blocks=(2, 2, 2, 2)``, 21,279,306 with ``blocks=(3, 4, 6, 3)``.
    """

    block = PreActBlock
    expansion = 1

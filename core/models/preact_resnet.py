"""This module holds pre-activation residual networks for small images (18 and 34 layers)."""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

from core.models.classifier import ImageClassifier


class PreActBlock(nn.Module):
    """A block is ``shortcut(x) + conv(relu(bn(conv(relu(bn(x))))))`` (He et al. 2016, Fig. 4e).

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input (the weights
    then share one activation); elsewhere it is x itself.

    ``[B, in_channels, h, w]`` to ``[B, out_channels, ceil(h / stride), ceil(w / stride)]``.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = torch.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        residual: Tensor = self.conv2(torch.relu(self.bn2(self.conv1(activated))))
        return shortcut + residual


class PreActResNet(ImageClassifier):
    """This is PreActResNet for small images as in the MixUp experiments: no final BN-ReLU.

    He, Zhang, Ren and Sun, "Identity Mappings in Deep Residual Networks" (ECCV 2016), with the four
    stages of ResNet-18 and -34 (He et al., CVPR 2016, Table 1), a 3x3 stem of stride 1 and no
    max-pool. He et al. end the network with BN-ReLU; the code behind the CIFAR-10 tables of MixUp
    and AdaMixUp (pytorch-cifar, mixup-cifar10, SITE5039/AdaMixUp) leaves them out, and so does this
    one: the pooled sum goes straight to the classifier. mixup-cifar10 differs in two more details
    that are not taken over: BN-ReLU after the stem, and shortcuts that all start behind the first
    activation. Initialized by PyTorch's defaults, as in those repositories.

    Input ``[B, in_channels, h, w]``; any size works, at 32x32 the last stage has 4x4. In training
    mode a batch of one needs more than 8 pixels, or the last BatchNorm has a single value.
    Features: D = 8 * width (512), of either sign. Parameters for 3 channels and 10 classes:
    11,171,146 with ``blocks=(2, 2, 2, 2)``, 21,279,306 with ``blocks=(3, 4, 6, 3)``.

    Args:
        in_channels, num_classes, image_size: see :class:`ImageClassifier`; images of at least 8
            pixels.
        width: channels of the stem and the first stage; the stages have 1, 2, 4, 8 times as many.
        blocks: blocks of each of the four stages.
    """

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
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1, bias=False)]
        channels = width
        for stage, count in enumerate(blocks):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(PreActBlock(channels, width * 2**stage, stride))
                channels = width * 2**stage
        self.trunk = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)

    def features(self, x: Tensor) -> Tensor:
        maps: Tensor = self.trunk(x)
        return maps.mean(dim=(2, 3))

"""The two networks that AdaMixUp trains beside the classifier, and what the first sees; see
`core.policies.adamixup.policy`.

Shapes here: n images, D features, C classes.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.random_streams import stream_device

HIDDEN = 100
"""Units of the policy generator's first linear layer."""

HEAD_STD = 1e-3
"""Standard deviation of the initial weights of both heads: all regions start near [1/3, 2/3]."""


class PolicyGenerator(nn.Module):
    """Images [n, ...] to the softmax (a, b, c) [n, 3]; the region of λ is [a, a + b].

    Backbone → linear 100 → linear 3, nothing between the two.

    Args:
        backbone: a network of its own with a last layer `classifier`. Taken over: that becomes the
            layer of 100 units.
    """

    def __init__(self, backbone: nn.Module):
        super().__init__()
        old = cast(nn.Linear, backbone.classifier)
        backbone.classifier = _linear(old.in_features, HIDDEN, like=old)
        self.backbone = backbone
        self.output = _linear(HIDDEN, 3, like=old)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (a, b, c), [n, 3], each row summing to 1."""
        return F.softmax(self.output(self.backbone(x)), dim=1)


class IntrusionDiscriminator(nn.Module):
    """Features [n, D] of the classifier to logits [n, 2] of (mixed, real).

    Linear C → linear 2, nothing between; there are 10 classes in the released code.

    Args:
        classifier: the layer whose D, C, dtype and device this one takes.
    """

    def __init__(self, classifier: nn.Linear):
        super().__init__()
        self.hidden = _linear(classifier.in_features, classifier.out_features, like=classifier)
        self.output = _linear(classifier.out_features, 2, like=classifier)

    def forward(self, features: Tensor) -> Tensor:
        """Returns logits, [n, 2]."""
        width = self.hidden.in_features
        if features.shape[1:] != (width,):
            raise ValueError(
                f"the intrusion discriminator needs features(x) [n, {width}], which the classifier "
                f"takes; got {list(features.shape)}: let features pool and flatten them"
            )
        logits: Tensor = self.output(self.hidden(features))
        return logits


def masked_average(x: Tensor, partner: Tensor, generator: torch.Generator | None) -> Tensor:
    """Returns what the policy generator sees of pairs: (m1⊙x + m2⊙x[partner]) / 2, m elementwise
    N(0, 1) cut at ±2. As x, [n, ...]; m1 is drawn first."""
    masks = [truncated_normal(x, generator) for _ in range(2)]
    return (masks[0] * x + masks[1] * x[partner]) / 2


def truncated_normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws N(0, 1) cut at ±2, by inversion: one number an element, where the stream is."""
    source = stream_device(generator)
    levels = torch.rand(like.shape, generator=generator, device=source, dtype=torch.float64)
    edge = math.erf(2**0.5)
    values = 2**0.5 * torch.special.erfinv((2 * levels - 1) * edge)
    return values.to(device=like.device, dtype=like.dtype)


def _linear(inputs: int, outputs: int, *, like: nn.Linear) -> nn.Linear:
    """Returns a linear layer with weights from N(0, 1e-3) and zero biases; dtype and device of
    `like`."""
    layer = nn.Linear(inputs, outputs, device=like.weight.device, dtype=like.weight.dtype)
    nn.init.normal_(layer.weight, std=HEAD_STD)
    nn.init.zeros_(layer.bias)
    return layer

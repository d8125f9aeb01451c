"""Every model of this package is features, then one linear classifier.

Legend: B batch, D features, C classes.
"""

from __future__ import annotations

from typing import Literal

import torch.nn as nn
from torch import Tensor


class ImageClassifier(nn.Module):
    """The base of the models has ``forward(x) == classifier(features(x))`` by construction.

    Studies measure distances between the features of mixed and of real samples, and AdaMixUp puts
    a second head on them, so the cut before the classifier is part of every model's interface. A
    subclass sets :attr:`classifier` and implements :meth:`features`; D is
    ``classifier.in_features``.

    Every operation of every model is twice differentiable, and none works in place: the
    hypergradient differentiates through the gradient, and hooks must see unchanged activations.

    Args:
        in_channels: channels of the images, at least 1.
        num_classes: C, at least 2.
        image_size: height and width of the images in pixels, at least ``minimum_size``.
        width: channels of the first convolution, at least 1.
        minimum_size: the smallest image of which the architecture's pooling and strides leave one
            whole pixel.

    Raises:
        ValueError: an argument is below its limit.

    Examples:
        >>> import torch
        >>> from core.models import build_model
        >>> model = build_model("digits_cnn", in_channels=1, num_classes=10, image_size=8)
        >>> x = torch.randn(2, 1, 8, 8)
        >>> torch.equal(model(x), model.classifier(model.features(x)))
        True
    """

    classifier: nn.Linear

    def __init__(
        self, in_channels: int, num_classes: int, image_size: int, width: int, minimum_size: int
    ) -> None:
        super().__init__()
        if in_channels < 1:
            raise ValueError(f"in_channels must be at least 1, got {in_channels}")
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        if width < 1:
            raise ValueError(
                f"width must be at least 1, got {width}; None takes the published width"
            )
        if image_size < minimum_size:
            raise ValueError(
                f"image_size must be at least {minimum_size} pixels for {type(self).__name__}, got "
                f"{image_size}: enlarge the images or choose a model with less downsampling"
            )

    def features(self, x: Tensor) -> Tensor:
        """Returns features, float ``[B, D]``, of normalized images ``x``, float ``[B, c, h, w]``.

        Runs in the mode the model is in: BatchNorm and dropout of the trunk are included.
        """
        # No abstract class: the `higher` library cannot make a functional copy of one.
        raise NotImplementedError(f"{type(self).__name__} must implement features()")

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits, float ``[B, C]``, of normalized images ``x``, float ``[B, c, h, w]``."""
        logits: Tensor = self.classifier(self.features(x))
        return logits


def initialize_he(module: nn.Module, mode: Literal["fan_in", "fan_out"]) -> None:
    """Draws every convolution's weight from N(0, 2 / fan), in place; biases become zero.

    He, Zhang, Ren and Sun, "Delving Deep into Rectifiers" (ICCV 2015), Eq. 10 and 14. ``mode`` is
    ``"fan_in"`` (preserves the variance of the activations) or ``"fan_out"`` (that of the
    gradients). Linear layers and BatchNorm are left as they are.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

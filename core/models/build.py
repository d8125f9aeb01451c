"""Makes a model by its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from core.models.classifier import ImageClassifier
from core.models.cnn import CNN, DigitsCNN, PlaneCNN
from core.models.names import MODELS
from core.models.preact_resnet import PreActResNet
from core.models.resnet import ResNet
from core.models.smooth import smoothed
from core.models.wide_resnet import WideResNet

_CONSTRUCTORS: dict[str, Callable[..., ImageClassifier]] = {
    "cnn": CNN,
    "cnn_2d": PlaneCNN,
    "digits_cnn": DigitsCNN,
    "cnn_smooth": lambda *sizes: smoothed(CNN(*sizes)),
    "digits_cnn_smooth": lambda *sizes: smoothed(DigitsCNN(*sizes)),
    "preact_resnet18": partial(PreActResNet, blocks=(2, 2, 2, 2)),
    "preact_resnet34": partial(PreActResNet, blocks=(3, 4, 6, 3)),
    "wrn_28_10": partial(WideResNet, depth=28, widen_factor=10),
    "wrn_28_2": partial(WideResNet, depth=28, widen_factor=2),
    "wrn_28_2_leaky": partial(WideResNet, depth=28, widen_factor=2, negative_slope=0.1),
    "resnet50": partial(ResNet, blocks=(3, 4, 6, 3)),
}


def build_model(
    name: str, *, in_channels: int, num_classes: int, image_size: int, width: int | None = None
) -> ImageClassifier:
    """Builds a freshly initialized model, in training mode, on the current default device.

    The initial weights come from torch's global random stream: seed it for a reproducible model.

    Args:
        name: one of `core.models.MODELS`.

            ==================  ===================================================  ==============
            name                what it is                                           smallest image
            ==================  ===================================================  ==============
            cnn                 "3-layer CNN", MNIST and Fashion-MNIST (width 32)     4
            cnn_2d              cnn with two features, Fig. 4 (width 32)              4
            digits_cnn          small network for 8x8 digits (width 16)               2
            cnn_smooth          cnn with GELU and average pooling (width 32)          4
            digits_cnn_smooth   digits_cnn with the same (width 16)                   2
            preact_resnet18     CIFAR, SVHN, ImageNet crops (width 64)                8
            preact_resnet34     the same, deeper (width 64)                           8
            wrn_28_10           Wide-ResNet-28-10, supervised (width 16)              4
            wrn_28_2            Wide-ResNet-28-2, semi-supervised (width 16)          4
            wrn_28_2_leaky      the same with LeakyReLU 0.1, as in Oliver et al.      4
            resnet50            bottleneck ResNet-50, Fig. 2 (width 64)               8
            ==================  ===================================================  ==============

        in_channels: channels of the images, at least 1.
        num_classes: C, at least 2.
        image_size: height and width of the images in pixels. The CNNs are made for exactly
            this size; the others take any size above their smallest.
        width: channels of the first convolution, which scales every layer; None takes the
            published width. A narrow model of the same shape trains in a fraction of the time.

    Returns:
        A model that maps normalized images, float ``[B, in_channels, image_size, image_size]``, to
        logits, float ``[B, C]``, with ``features(x)`` (``[B, D]``) and ``classifier`` exposed:
        ``model(x) == model.classifier(model.features(x))``.

    Raises:
        ValueError: the name is unknown, or a number is below its limit.

    Examples:
        >>> from core.models import build_model
        >>> model = build_model("cnn", in_channels=1, num_classes=10, image_size=14, width=8)
        >>> model.classifier.out_features
        10
    """
    if name not in _CONSTRUCTORS:
        raise ValueError(f"unknown model {name!r}: choose one of {', '.join(MODELS)}")
    construct = _CONSTRUCTORS[name]
    if width is None:
        return construct(in_channels, num_classes, image_size)
    return construct(in_channels, num_classes, image_size, width)

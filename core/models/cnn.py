"""This module holds CNNs without BatchNorm: the paper's "3-layer CNN" and one for digits."""

from __future__ import annotations

import torch.nn as nn
from torch import Tensor

from core.models.classifier import ImageClassifier, initialize_he
from core.models.pooling import MaxPool2d


class PlainCNN(ImageClassifier):
    """The base of the CNNs has its layers in a row, made for images of exactly one size.

    The first fully connected layer has that size. The trunk is initialized by He, the classifier
    by N(0, 1e-3), biases are zero, as in the code of AdaMixUp.

    Raises:
        ValueError: an input has another size.
    """

    trunk: nn.Sequential
    image_size: int

    def features(self, x: Tensor) -> Tensor:
        # The linear layer would fail too, but with the shapes of its matrices.
        if x.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"this model was built for images of {self.image_size}x{self.image_size} pixels, "
                f"got {x.shape[-2]}x{x.shape[-1]}: build it with the image_size of the data"
            )
        features: Tensor = self.trunk(x)
        return features

    def initialize(self) -> None:
        """Draws all weights anew, in place."""
        initialize_he(self.trunk, mode="fan_in")
        for layer in self.trunk:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.classifier.weight, std=1e-3)
        nn.init.zeros_(self.classifier.bias)


class CNN(PlainCNN):
    """The paper's "3-layer CNN" (section IV-B, MNIST and Fashion-MNIST) has four convolutions.

    MetaMixUp takes the network from AdaMixUp (Guo, Mao and Zhang, AAAI 2019), and the code that
    those authors released (SITE5039/AdaMixUp, ``share_mixup_net``) has four convolutions, whatever
    its name says: conv 3x3-32, ReLU, max-pool 2; conv 32, ReLU; conv 32, ReLU, max-pool 2; conv 32,
    ReLU; fully connected 512, ReLU, dropout 0.5; fully connected C. Convolutions keep the size;
    pooling drops an odd last row and column.

    Features: D = 16 * width (512), after the dropout, non-negative. Parameters: 836,522 for 1x28x28
    and 10 classes.

    Args:
        in_channels, num_classes, image_size: see :class:`ImageClassifier`; images of at least 4
            pixels.
        width: channels of each convolution; the hidden layer has 16 * width units.
    """

    def __init__(
        self, in_channels: int, num_classes: int, image_size: int, width: int = 32
    ) -> None:
        super().__init__(in_channels, num_classes, image_size, width, minimum_size=4)
        self.image_size = image_size
        pooled = image_size // 4
        self.trunk = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1),
            nn.ReLU(),
            MaxPool2d(2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            MaxPool2d(2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(width * pooled * pooled, 16 * width),
            nn.ReLU(),
            nn.Dropout(0.5),
        )
        self.classifier = nn.Linear(16 * width, num_classes)
        self.initialize()


class PlaneCNN(CNN):
    """This is the "3-layer CNN" with two features, to be drawn in the plane (Fig. 4).

    Between the hidden layer of :class:`CNN`, dropout included, and the classifier stands a linear
    layer of two units without an activation, so that features lie anywhere in the plane. It is
    initialized as :class:`CNN`, but for the classifier, N(0, 0.1): 1e-3 leaves two features next to
    no gradient, and at He's 0.7 one of three short trainings on Fashion-MNIST (14x14, MixUp, lr
    0.05) stayed at the chance level, all features in one point; at 0.1 none did. D = 2.
    Parameters: 832,448 for 1x28x28 and 10 classes. Its arguments are those of :class:`CNN`.
    """

    def __init__(
        self, in_channels: int, num_classes: int, image_size: int, width: int = 32
    ) -> None:
        super().__init__(in_channels, num_classes, image_size, width)
        self.trunk.append(nn.Linear(16 * width, 2))
        self.classifier = nn.Linear(2, num_classes)
        self.initialize()
        nn.init.normal_(self.classifier.weight, std=0.1)


class DigitsCNN(PlainCNN):
    """The network for 8x8 digits has two convolutions, one pooling and one hidden layer.

    This project's own, for the data set that comes with scikit-learn: conv 3x3-16, ReLU; conv
    3x3-32, ReLU, max-pool 2; fully connected 64, ReLU; fully connected C. Neither BatchNorm nor
    dropout, so a study on two CPU cores is fast and the loss is a function of the weights alone.

    Features: D = 4 * width (64), non-negative. Parameters: 38,282 for 1x8x8 and 10 classes.

    Args:
        in_channels, num_classes, image_size: see :class:`ImageClassifier`; images of at least 2
            pixels.
        width: channels of the first convolution; the second has 2 * width, the hidden layer
            4 * width units.
    """

    def __init__(
        self, in_channels: int, num_classes: int, image_size: int, width: int = 16
    ) -> None:
        super().__init__(in_channels, num_classes, image_size, width, minimum_size=2)
        self.image_size = image_size
        pooled = image_size // 2
        self.trunk = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * width * pooled * pooled, 4 * width),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(4 * width, num_classes)
        self.initialize()

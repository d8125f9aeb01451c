"""This package holds the models of the paper's experiments, and a small one for digits.

>>> from core.models import build_model
>>> model = build_model("preact_resnet18", in_channels=3, num_classes=10, image_size=32)
>>> model.classifier.in_features
512
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazily

if TYPE_CHECKING:
    from core.models.build import build_model
    from core.models.classifier import ImageClassifier
    from core.models.names import MODELS

__all__ = ["MODELS", "ImageClassifier", "build_model"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__)

"""The names of the models."""

from __future__ import annotations

from typing import Literal, get_args

ModelName = Literal[
    "cnn",
    "cnn_2d",
    "digits_cnn",
    "cnn_smooth",
    "digits_cnn_smooth",
    "preact_resnet18",
    "preact_resnet34",
    "wrn_28_10",
    "wrn_28_2",
    "wrn_28_2_leaky",
    "resnet50",
]

MODELS: tuple[ModelName, ...] = get_args(ModelName)
"""The names that `core.models.build_model` knows."""

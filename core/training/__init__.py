"""One whole training: its configuration, its data, its loop, its result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazily

if TYPE_CHECKING:
    from core.training.config import TrainingConfig
    from core.training.result import DivergenceError, Metrics, TrainingResult
    from core.training.training import Training

__all__ = ["DivergenceError", "Metrics", "Training", "TrainingConfig", "TrainingResult"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__)

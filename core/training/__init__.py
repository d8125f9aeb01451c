"""One whole training: its configuration, its data, its loop, its result."""

from core.training.config import TrainingConfig
from core.training.result import DivergenceError, Metrics, TrainingResult
from core.training.training import Training

__all__ = ["DivergenceError", "Metrics", "Training", "TrainingConfig", "TrainingResult"]

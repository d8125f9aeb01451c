"""Results of trainings made by hand, whole but for what a test says."""

from __future__ import annotations

from typing import Any

from core.training.result import TrainingResult
from hpo.cells.result import PopulationResult

PLAIN: dict[str, Any] = {
    "test_error": 5.0,
    "test_top5_error": None,
    "val_error": 5.0,
    "train_loss": 1.0,
    "train_seconds": 1.0,
    "samples_seen": 10,
    "epochs": 1,
    "parameters": 100,
    "history": [],
    "lam_histogram": [1] * 20,
    "lam_histogram_first": [2] * 20,
}


def result(**values: Any) -> TrainingResult:
    """Returns the result of a finished training; of a population where `lineage` is given."""
    kind = PopulationResult if "lineage" in values else TrainingResult
    return kind.from_dict({**PLAIN, **values})

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from core.training.config import PolicyConfig, TrainingConfig
from hpo.cells.cell import Cell
from hpo.cells.record import CellRecord


@pytest.fixture(scope="session")
def make_record() -> Callable[..., CellRecord]:
    """Build the record of one training; keyword arguments not named here go into its result."""

    def make(
        method: str = "beta-1",
        seed: int = 0,
        *,
        dataset: str = "digits",
        purpose: str = "final",
        status: str = "finished",
        error: str | None = None,
        policy: PolicyConfig | None = None,
        epochs: int = 2,
        **result: Any,
    ) -> CellRecord:
        policy = policy or PolicyConfig("beta", alpha=1.0)
        training = TrainingConfig(dataset, "cnn", policy, seed=seed, epochs=epochs)
        seconds, samples = result.pop("train_seconds", 10.0), result.pop("samples_seen", 1000)
        history = [
            {
                "epoch": float(epoch),
                "train_loss": 1.0 / epoch,
                "val_error": 50.0 / epoch,
                "train_seconds": seconds * epoch / epochs,
                "samples_seen": samples * epoch / epochs,
                "lam_mean": 0.5,
            }
            for epoch in range(1, epochs + 1)
        ]
        values = {"history": history, "train_seconds": seconds, "samples_seen": samples}
        if status == "finished":
            values |= {
                "test_error": 5.0,
                "test_top5_error": None,
                "val_error": 50.0 / epochs,
                "train_loss": 1.0 / epochs,
                "epochs": epochs,
                "parameters": 100,
                "lam_histogram": [1] * 20,
                "lam_histogram_first": [2] * 20,
            }
        cell = Cell(method, training, purpose)  # type: ignore[arg-type]
        return CellRecord(cell, status, values | result, error, {"device": "cpu"})  # type: ignore[arg-type]

    return make

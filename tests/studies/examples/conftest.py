from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator

import numpy as np
import optuna
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread; what a program sets for its whole process is put back after it."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "")
    threads, verbosity = torch.get_num_threads(), optuna.logging.get_verbosity()
    level = logging.getLogger("lightning.pytorch").level
    stream = torch.get_rng_state()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(stream)
    optuna.logging.set_verbosity(verbosity)
    logging.getLogger("lightning.pytorch").setLevel(level)


@pytest.fixture(scope="session")
def names_of() -> Callable[[Tensor], set[int]]:
    """Which of scikit-learn's digits a batch [n, 1, 8, 8] in [0, 1] holds, by their pixels."""

    def key(pixels: np.ndarray) -> str:
        return hashlib.sha256(np.rint(pixels * 16).astype(np.uint8).tobytes()).hexdigest()

    rows = {key(row / 16): number for number, row in enumerate(load_digits().data)}
    assert len(rows) == 1797  # no image is there twice

    def names(batch: Tensor) -> set[int]:
        return {rows[key(image.numpy().ravel())] for image in batch}

    return names

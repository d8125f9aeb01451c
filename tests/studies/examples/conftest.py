from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

import core


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
    """Tells which of scikit-learn's digits a batch [n, 1, 8, 8] in [0, 1] holds, by their
    pixels."""

    def key(pixels: np.ndarray) -> str:
        return hashlib.sha256(np.rint(pixels * 16).astype(np.uint8).tobytes()).hexdigest()

    rows = {key(row / 16): number for number, row in enumerate(load_digits().data)}
    assert len(rows) == 1797  # no image is there twice

    def names(batch: Tensor) -> set[int]:
        return {rows[key(image.numpy().ravel())] for image in batch}

    return names


@dataclass
class Watched:
    """What a program used each digit for, and with what learning rate and settings it stepped."""

    train: set[int] = field(default_factory=set)
    meta: set[int] = field(default_factory=set)
    score: set[int] = field(default_factory=set)
    steps: list[tuple[float, dict[str, Any]]] = field(default_factory=list)


@pytest.fixture
def watch(
    monkeypatch: pytest.MonkeyPatch, names_of: Callable[[Tensor], set[int]]
) -> Callable[[Any], Watched]:
    """watch(example) notes what its steps, and its error of a part, get from now on."""

    def begin(example: Any) -> Watched:
        watched, step, error = Watched(), core.metamixup_step, example.error

        def spied_step(model: Any, optimizer: Any, batch: Any, val_batch: Any, **kw: Any) -> Any:
            watched.train |= names_of(batch[0])
            watched.meta |= names_of(val_batch[0])
            watched.steps.append((optimizer.param_groups[0]["lr"], kw))
            return step(model, optimizer, batch, val_batch, **kw)

        def spied_error(model: Any, part: Any) -> float:
            images = part[0] if isinstance(part, tuple) else torch.stack([x for x, _ in part])
            watched.score |= names_of(images)
            return float(error(model, part))

        monkeypatch.setattr(core, "metamixup_step", spied_step)
        monkeypatch.setattr(example, "error", spied_error)
        return watched

    return begin

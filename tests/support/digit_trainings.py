"""Trainings on scikit-learn's digits: their numbers, and how one dies at a report."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from core.data import Source, load_source
from core.policies import NoMix
from core.training.config import TrainingConfig
from core.training.fit import fit
from core.training.result import Metrics, TrainingResult
from hpo.cells.result import PartialResult

TINY = TrainingConfig("digits", "cnn", NoMix(), train_size=60, epochs=4)
"""A training of a second or less, once the rest of it is as small."""


@functools.cache
def digits() -> Source:
    """Returns the data, loaded once."""
    return load_source("digits")


def numbers(
    result: TrainingResult | PartialResult | Mapping[str, Any], *, without: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Returns everything of a result but the time it took, and `without`."""
    left_out = ("train_seconds", *without)
    data = dict(result) if isinstance(result, Mapping) else result.to_dict()
    history = [{k: v for k, v in m.items() if k not in left_out} for m in data["history"]]
    return {k: v for k, v in data.items() if k not in left_out} | {"history": history}


class Interrupted(Exception):
    """A training that died."""


def interrupt(config: TrainingConfig, directory: Path, at: int) -> None:
    """Trains until the report of epoch `at` and dies there."""

    def die(metrics: Metrics) -> None:
        if metrics["epoch"] == at:
            raise Interrupted

    with pytest.raises(Interrupted):
        fit(config, source=digits(), directory=directory, on_epoch=die)

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.data import Source, load_source, source_from_arrays
from core.policies import Beta, NoMix, PolicyConfig
from core.training.config import TrainingConfig
from hpo.cells.cell import Cell
from hpo.cells.record import CellRecord
from hpo.cells.result import PartialResult, result_from_dict
from hpo.report.outcome import Outcome
from hpo.report.table import build_table
from hpo.search.protocol import SearchSettings
from hpo.study.plan import Plan
from hpo.study.rows import StudyRow
from tests.support.stores import copied_stores

__all__ = ["copied_stores"]

PARTIAL = [field.name for field in fields(PartialResult)]
MakeOutcome = Callable[..., Outcome]


@pytest.fixture(scope="session")
def source() -> Source:
    """Returns scikit-learn's digits, loaded once."""
    return load_source("digits")


@pytest.fixture
def outcome_of(tmp_path: Path) -> Callable[..., Outcome]:
    """outcome_of(rows, records): what a study of these rows ended with, on the records' data sets
    unless others are named. They have three classes: ant, bee, cow."""

    def make(
        rows: Sequence[StudyRow],
        records: Sequence[CellRecord],
        datasets: Sequence[str] | None = None,
        study: str = "figure",
    ) -> Outcome:
        datasets = list(datasets or dict.fromkeys(record.cell.dataset for record in records))
        base = {d: TrainingConfig(d, "cnn", NoMix(), meta_size=60) for d in datasets}
        pixels, labels = np.zeros((3, 2, 2), np.uint8), np.arange(3)
        classes = ("ant", "bee", "cow")
        sources = {
            (d, None): source_from_arrays(d, pixels, labels, pixels, labels, classes)
            for d in datasets
        }
        plan = Plan(study, rows, datasets, range(3), base, SearchSettings(trials=3))
        frame = build_table(records, [row.row for row in rows], datasets)
        return Outcome(plan, records, sources, frame, tmp_path)

    return make


@pytest.fixture
def make_outcome(
    make_record: Callable[..., CellRecord], outcome_of: Callable[..., Outcome]
) -> MakeOutcome:
    """make(rows, {key: [result of seed 0, of seed 1, ...]}, datasets=...): each data set alike.

    A result is what differs from `make_record`'s. A row without any is not finished.
    """

    def make(
        rows: Sequence[StudyRow],
        results: Mapping[str, Sequence[Mapping[str, Any]]],
        datasets: Sequence[str] = ("digits",),
    ) -> Outcome:
        records = [
            make_record(row.row.key, seed, dataset=dataset, policy=row.policy, **result)
            for dataset in datasets
            for row in rows
            for seed, result in enumerate(results.get(row.row.key, ()))
        ]
        return outcome_of(rows, records, datasets)

    return make


@pytest.fixture(scope="session")
def make_record() -> Callable[..., CellRecord]:
    """Builds the record of one training; keyword arguments not named here go into its result."""

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
        policy = policy or Beta(alpha=1.0)
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
        values = {"history": history, "epochs": epochs}
        values |= {"train_seconds": seconds, "samples_seen": samples}
        if status == "finished":
            values |= {
                "test_error": 5.0,
                "test_top5_error": None,
                "val_error": 50.0 / epochs,
                "train_loss": 1.0 / epochs,
                "parameters": 100,
                "lam_histogram": [1] * 20,
                "lam_histogram_first": [2] * 20,
            }
        cell = Cell(method, training, purpose)  # type: ignore[arg-type]
        values |= result
        if status != "finished":  # what such a training would have had besides is left out
            values = {name: values[name] for name in PARTIAL}
        given = result_from_dict(values)
        return CellRecord(cell, status, given, error, {"device": "cpu"})  # type: ignore[arg-type]

    return make

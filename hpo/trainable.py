"""From a cell to a training: what a Ray Tune worker runs, and how it reports."""

from __future__ import annotations

import json
import platform
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ray import tune

from core.data import Source
from core.training import fit
from core.training_result import DivergenceError, Metrics
from hpo.cells import Cell, CellStore, partial_result
from hpo.plan import SourceKey, source_key
from hpo.population import fit_population

REPORT_SECONDS = 0.5
"""Epochs are reported together, at most so often: a report waits for the driver."""


def environment(device: str, threads: int) -> dict[str, str]:
    """What the numbers may depend on beside the configuration."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "threads": str(threads),
    }


def train(cell: Cell, **options: Any) -> dict[str, Any]:
    """Train a cell or a population, with the options of `core.training.fit`; the stored result."""
    if cell.population is not None:
        return fit_population(cell.training, cell.population, **options)
    return fit(cell.training, **options).to_dict()


def train_cell(
    config: Mapping[str, Any],
    *,
    sources: Mapping[SourceKey, Source],
    output: str,
    device: str,
    threads: int,
) -> None:
    """Train the cell in `config["cell"]`, with data that the driver has loaded once for all.

    Reports `epochs`, those since the last report, and in the last report `ending`: status, result,
    error and environment as JSON (Tune would flatten them). Checkpoints lie in the cell's folder
    under `output`; a worker that is started again for the same cell goes on from there.
    """
    waiting: list[Metrics] = []
    last = time.monotonic()

    def on_epoch(metrics: Metrics) -> None:
        nonlocal last
        waiting.append(metrics)
        if time.monotonic() - last >= REPORT_SECONDS:
            tune.report({"epochs": list(waiting)})
            waiting.clear()
            last = time.monotonic()

    ending: dict[str, Any] = {"environment": {}}
    try:
        cell = Cell.from_dict(config["cell"])
        ending["environment"] = environment(device, threads)
        result = train(
            cell,
            source=sources[source_key(cell.training)],
            directory=CellStore(Path(output)).directory(cell.id),
            device=device,
            threads=threads,
            on_epoch=on_epoch,
        )
        ending |= {"status": "finished", "result": result, "error": None}
    except DivergenceError as error:
        ending |= {"status": "diverged", "result": partial_result(error.history)}
        ending["error"] = str(error)
    except Exception as error:  # told like a result: one bad cell must not end the study
        place = traceback.extract_tb(error.__traceback__)[-1]
        ending |= {"status": "crashed", "result": {}}
        ending["error"] = f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"
    tune.report({"epochs": list(waiting), "ending": json.dumps(ending)})

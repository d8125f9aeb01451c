"""A Ray Tune worker makes a training of a cell, and reports it."""

from __future__ import annotations

import json
import platform
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import ray
import torch
from ray import tune

from core.data.imported import given
from core.policies import PolicyConfig, register_policy
from core.training.fit import fit
from core.training.result import DivergenceError, Metrics, TrainingResult
from hpo.cells.cell import Cell
from hpo.cells.result import PartialResult, result_from_dict
from hpo.cells.store import CellStore
from hpo.cluster.gpu_memory import Meter, gpu_meter
from hpo.search.population_training import fit_population
from hpo.storage.protocol import Keep, Storage
from hpo.study.given import OBJECTS
from hpo.study.plan import SourceKey, source_key

if TYPE_CHECKING:
    from core.data import Source

REPORT_SECONDS = 0.5
"""Epochs are reported together, at most so often: a report waits for the driver."""


def environment(device: str, threads: int) -> dict[str, str]:
    """Returns what the numbers may depend on beside the configuration."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "threads": str(threads),
    }


def whereabouts() -> dict[str, str]:
    """Returns where this process runs: the host, and in a Ray cluster the node."""
    node = {"node": ray.get_runtime_context().get_node_id()} if ray.is_initialized() else {}
    return {"host": platform.node(), **node}


def train(cell: Cell, **options: Any) -> TrainingResult:
    """Trains a cell or a population, with options of `core.training.fit`; returns the result."""
    if cell.population is not None:
        return fit_population(cell.training, cell.population, **options)
    return fit(cell.training, **options)


def register_policies(objects: OBJECTS) -> None:
    """Makes the policies among objects that Python code gave known in this process."""
    for thing in objects.values():
        if isinstance(thing, type) and issubclass(thing, PolicyConfig):
            register_policy(thing)


def ending_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the last report of `train_cell` says, as arguments of `StudyRun.end`."""
    ending: dict[str, Any] = json.loads(report["ending"])
    return {**ending, "result": result_from_dict(ending["result"])}


def train_cell(
    config: Mapping[str, Any],
    *,
    sources: Mapping[SourceKey, Source],
    storage: Storage,
    device: str,
    threads: int,
    gpus: float = 1.0,
    meter: Meter = gpu_meter,
    objects: OBJECTS = MappingProxyType({}),
    report: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Trains the cell in `config["cell"]`, with data that the driver has loaded once for all.

    Reports `epochs`, those since the last report, and in the last report `ending`: status, result,
    error and environment as JSON (Tune would flatten them). Checkpoints go into the storage; a
    worker that is started again for the same cell, on whatever node, goes on from there. `gpus` is
    what Ray reserved for the cell; `meter` tells what it took. `objects` are what Python code gave:
    names of the configuration stand for them, and policies among them become known.
    """
    report = tune.report if report is None else report
    waiting: list[Metrics] = []
    last = time.monotonic()

    def on_epoch(metrics: Metrics, keep: Keep) -> None:
        nonlocal last
        keep()
        waiting.append(metrics)
        if time.monotonic() - last >= REPORT_SECONDS:
            report({"epochs": list(waiting)})
            waiting.clear()
            last = time.monotonic()

    ending: dict[str, Any] = {"environment": {}}
    try:
        register_policies(objects)
        cell = Cell.from_dict(config["cell"])
        ending["environment"] = {**environment(device, threads), **whereabouts()}
        checkpoints = CellStore(storage).checkpoints(cell.id)
        shown = given(objects)
        with shown, checkpoints as (directory, keep), meter(device, min(gpus, 1.0)) as used:
            result = train(
                cell,
                source=sources[source_key(cell.training)],
                directory=directory,
                device=device,
                threads=threads,
                on_epoch=partial(on_epoch, keep=keep),
            )
            if (use := used()) is not None:
                ending["environment"] |= use.to_environment()
        ending |= {"status": "finished", "result": result.to_dict(), "error": None}
    except DivergenceError as error:
        partial_result = PartialResult.of(error.history, error.epochs)
        ending |= {"status": "diverged", "result": partial_result.to_dict(), "error": str(error)}
    except Exception as error:  # reported like a result: one bad cell must not end the study
        place = traceback.extract_tb(error.__traceback__)[-1]
        ending |= {"status": "crashed", "result": {}}
        ending["error"] = f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"
        if isinstance(error, torch.OutOfMemoryError) and 0 < gpus < 1:
            ending["error"] += f"; its share of the GPU is {gpus:g}: raise --gpus-per-cell"
    report({"epochs": list(waiting), "ending": json.dumps(ending)})

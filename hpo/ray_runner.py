"""Run a study's cells on Ray Tune: on this machine with nothing to start, or on a cluster.

One Tune experiment carries everything: the study itself is the search algorithm (what is next) and
the scheduler (what is stopped), so that the search for α and the fixed rows share the workers and
none waits. Tune's own restore is not used: what is done is known from the store.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from core.data import Source
from hpo.study import StudyRun
from hpo.trainable import SourceKey, train_cell

MIB = 1024**2
MAX_FAILURES = 1
"""A worker that dies is started again so often; it goes on from its checkpoint."""


class _StudySearcher(Searcher):
    """Hands the study's cells to Tune."""

    def __init__(self, run: StudyRun, workers: int):
        super().__init__(metric=None, mode=None)
        self._run = run
        self._limit = workers + 1  # one ahead, so that Tune keeps the worker process
        self.cell_ids: dict[str, str] = {}

    def suggest(self, trial_id: str) -> Any:
        if len(self.cell_ids) >= self._limit:
            return None
        cell = self._run.next()
        if cell is None:
            return Searcher.FINISHED if self._run.finished else None
        self.cell_ids[trial_id] = cell.id
        return {"cell": cell.to_dict()}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        # Whatever way the trial came to its end, a cell that has not told its ending is lost.
        reason = f"its worker died {MAX_FAILURES + 1} times, killed or out of memory"
        self._run.end(self.cell_ids.pop(trial_id), "crashed", {}, reason, {})

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study's state is in its store."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore; see `save`."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its parts for a restore that we do not use; open files do not pickle."""
        return {}


class _StudyScheduler(FIFOScheduler):
    """Gives the study each trial's reports and stops what it wants stopped."""

    def __init__(self, run: StudyRun, searcher: _StudySearcher):
        super().__init__()
        self._run = run
        self._searcher = searcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        cell_id = self._searcher.cell_ids.get(trial.trial_id)
        if cell_id is None or "epochs" not in result:
            return self.CONTINUE
        if self._run.report(cell_id, result["epochs"]):
            return self.STOP
        if "ending" in result:
            self._run.end(cell_id, **json.loads(result["ending"]))
        return self.CONTINUE

    def __getstate__(self) -> dict[str, Any]:
        """As of the searcher."""
        return {}


def run_on_ray(
    run: StudyRun,
    sources: Mapping[SourceKey, Source],
    *,
    output: Path,
    address: str | None,
    workers: int,
    device: str,
    threads: int,
    gpus_per_cell: float,
) -> None:
    """Train all cells of a study.

    Args:
        run: the study.
        sources: the loaded data sets; put once into Ray's object store, from where each node copies
            them once.
        output: where checkpoints go; on a cluster a path that all nodes share.
        address: of a running cluster; None joins the one on this machine if there is one, and else
            starts one inside this process, which ends with it.
        workers: cells trained at a time.
        device: "cpu" or "cuda".
        threads: of torch in each cell; as many CPUs are reserved.
        gpus_per_cell: may be a fraction; 0 on the CPU.

    Raises:
        ConnectionError: no cluster answers at `address`.
    """
    with (
        _ray(address, workers * threads, sources),
        tempfile.TemporaryDirectory(
            prefix=".ray-", dir=output, ignore_cleanup_errors=True
        ) as scratch,
    ):
        searcher = _StudySearcher(run, workers)
        trainable = tune.with_parameters(
            train_cell, sources=sources, output=str(output), device=device, threads=threads
        )
        tune.Tuner(
            tune.with_resources(trainable, {"cpu": threads, "gpu": gpus_per_cell}),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=_StudyScheduler(run, searcher),
                num_samples=-1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=run.plan.study,
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
            ),
        ).fit()


@contextmanager
def _ray(address: str | None, cpus: int, sources: Mapping[SourceKey, Source]) -> Iterator[None]:
    """Join or start Ray, quietly; what was started here is stopped."""
    # Tune's own loggers write three files a trial that nobody reads; its handler for Ctrl-C keeps
    # the interrupt from us, and we end the tracking runs ourselves.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # we say ourselves what failed
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address=address or "auto", **quiet)
    except ConnectionError:
        if address is not None:
            raise
        size = sum(_pixel_bytes(source) for source in sources.values())
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=max(128 * MIB, 2 * size + 64 * MIB),
            **quiet,
        )
    try:
        yield
    finally:
        ray.shutdown()


def _pixel_bytes(source: Source) -> int:
    """Bytes that the source takes in the object store; images that stay in files take none."""
    parts = (source.train_data, source.test_data)
    return sum(part.nbytes for part in parts if isinstance(part, np.ndarray))

"""Ray Tune runs a study's cells: on this machine with nothing to start, or on a cluster.

One Tune experiment carries everything: the study itself is the search algorithm (what is next) and
the scheduler (what is stopped), so that the search for α and the fixed rows share the workers and
none waits. Tune's restore is not used: what is done is known from the store.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from ray import tune
from ray.exceptions import RayError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from hpo.cells.result import PartialResult
from hpo.cluster.gpu_memory import Meter, gpu_meter
from hpo.cluster.nodes import check_nodes
from hpo.cluster.packing import measured_share
from hpo.cluster.sendable import check_sendable
from hpo.cluster.session import Demand, room, session
from hpo.cluster.trainable import ending_of, train_cell
from hpo.storage.protocol import Storage
from hpo.study.given import OBJECTS
from hpo.study.plan import SourceKey
from hpo.study.study_run import StudyError, StudyRun

if TYPE_CHECKING:
    from core.data import Source

MAX_FAILURES = 1
"""A worker that dies is started again so often without having got on; it goes on from its
checkpoint. Whoever trains for days on nodes that are taken back loses many."""


class _StudySearcher(Searcher):
    """The searcher hands the study's cells to Tune."""

    def __init__(self, run: StudyRun, ahead: int):
        super().__init__(metric=None, mode=None)
        self._run = run
        self._ahead = ahead
        self.cell_ids: dict[str, str] = {}
        self.deaths: dict[str, str] = {}
        self.failure: Exception | None = None

    def suggest(self, trial_id: str) -> Any:
        if len(self.cell_ids) >= self._run.workers + self._ahead:
            return None
        with self.remembered():
            cell = self._run.next()
        if cell is None:
            return Searcher.FINISHED if self._run.finished else None
        self.cell_ids[trial_id] = cell.id
        return {"cell": cell.to_dict()}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        # Whatever way the trial came to its end, a cell that has not reported its ending is lost.
        reason = self.deaths.pop(trial_id, "it ended without a word")
        with self.remembered():
            self._run.end(
                self.cell_ids.pop(trial_id),
                "crashed",
                PartialResult.of([]),
                f"its worker died: {reason}",
                {},
            )

    @contextmanager
    def remembered(self) -> Iterator[None]:
        """Keeps what fails inside, of which Tune would make a text, for the study's message."""
        try:
            yield
        except Exception as error:
            self.failure = self.failure or error
            raise

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: the study's state is in its store."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing; see `save`."""

    def __getstate__(self) -> dict[str, Any]:
        """Pickles nothing: Tune would, for a restore that we do not use; open files cannot be."""
        return {}


class _StudyScheduler(FIFOScheduler):
    """The scheduler gives the study each trial's reports and stops what it wants stopped."""

    def __init__(self, run: StudyRun, searcher: _StudySearcher, keep: int = 0):
        super().__init__()
        self._run = run
        self._searcher = searcher
        self._keep = keep
        self._epochs: dict[str, float] = {}

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Has Tune keep so many processes while nothing waits for them, as between two rounds of a
        search; it would keep one, and the others would take seconds to start again."""
        if self._keep:
            with suppress(AttributeError):  # of a Ray that names it otherwise: a round starts later
                processes = tune_controller._tune_controller._actor_cache
                processes.increase_max(trial.placement_group_factory, by=self._keep)
            self._keep = 0

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Returns the first that waits, in the study's order; Tune would look at all trials."""
        waiting = {
            t.trial_id: t for t in tune_controller.get_live_trials() if t.status == Trial.PENDING
        }
        return next((waiting[i] for i in self._searcher.cell_ids if i in waiting), None)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        cell_id = self._searcher.cell_ids.get(trial.trial_id)
        if cell_id is None or "epochs" not in result:
            return self.CONTINUE
        reached = max((metrics["epoch"] for metrics in result["epochs"]), default=0.0)
        if reached > self._epochs.get(cell_id, 0.0):
            self._epochs[cell_id] = reached
            trial.run_metadata.num_failures = 0
        with self._searcher.remembered():
            if self._run.report(cell_id, result["epochs"]):
                return self.STOP
            if "ending" not in result:
                return self.CONTINUE
            self._run.end(cell_id, **ending_of(result))
            self._epochs.pop(cell_id, None)
        return self.STOP  # there is nothing to wait for

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Forgets what Tune keeps of each trial to the end, the cell's whole result too."""
        metadata = trial.run_metadata
        metadata.last_result = {"trial_id": trial.trial_id, "done": True}
        for memory in (metadata.metric_analysis, metadata.metric_n_steps, trial.config):
            memory.clear()
        trial.evaluated_params, trial.experiment_tag = {}, ""
        trial._default_result_or_future = None  # an object that Ray holds for it

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Remembers why; the trial may be started again, so its cell has not ended yet."""
        try:
            lines = Path(trial.error_file).read_text().strip().splitlines()
        except (OSError, TypeError):
            lines = []
        if lines:
            self._searcher.deaths[trial.trial_id] = lines[-1].strip()

    def __getstate__(self) -> dict[str, Any]:
        """Pickles nothing, as the searcher."""
        return {}


def run_on_ray(
    run: StudyRun,
    sources: Mapping[SourceKey, Source],
    demand: Demand,
    *,
    output: Path,
    storage: Storage,
    device: str,
    objects: OBJECTS = MappingProxyType({}),
    meter: Meter = gpu_meter,
) -> None:
    """Trains all cells of a study; `run.workers` becomes the number trained at a time.

    Args:
        run: the study.
        sources: the loaded data sets; put once into Ray's object store, from where each node copies
            them once.
        demand: which cluster, and what a cell needs of it.
        output: a folder of this machine, for Ray's files while it runs.
        storage: where checkpoints go, which all nodes must reach.
        device: "cpu", "cuda" or "mps".
        objects: what Python code gave, of which each worker gets a copy.
        meter: measures the GPU memory that a training takes.

    Raises:
        StudyError: Ray gave up, has no room for a cell, or a node does not reach the storage.
        StoreError: a result could not be written.
    """
    # Tune's loggers write three files a trial that nobody reads; its handler for Ctrl-C keeps
    # the interrupt from us, and we end the tracking runs ourselves.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # we say ourselves what failed
    check_sendable(objects)
    with (
        session(demand) as ray_session,
        tempfile.TemporaryDirectory(
            prefix=".ray-", dir=output, ignore_cleanup_errors=True
        ) as scratch,
    ):
        check_nodes(storage)
        run.workers, gpus = ray_session.workers, demand.gpus
        if gpus is None:
            gpus = measured_share(run, sources, threads=demand.threads, device=device, meter=meter)
            run.say(f"measured: a cell gets {gpus:g} of a GPU")
            run.workers = demand.workers or room(replace(demand, gpus=gpus))
        # Where the CPUs are ours, processes are kept, and one cell ahead waits for the next that
        # is free; on a larger cluster it would run.
        ahead, keep = (1, run.workers) if ray_session.started_here else (0, 0)
        searcher = _StudySearcher(run, ahead)
        # Or Tune starts the workers' processes one after another, which takes seconds for each.
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(run.workers + ahead)
        trainable = tune.with_parameters(
            train_cell,
            sources=sources,
            storage=storage,
            device=device,
            threads=demand.threads,
            gpus=gpus,
            meter=meter,
            objects=objects,
        )
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": demand.threads, "gpu": gpus}),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=_StudyScheduler(run, searcher, keep),
                num_samples=-1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=run.plan.study,
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
            ),
        )
        try:
            tuner.fit()
        except (tune.TuneError, RayError) as error:
            if searcher.failure is not None:
                raise searcher.failure from None
            last = str(error).strip().splitlines()[-1]
            raise StudyError(
                f"Ray stopped the study: {last}; run the same command again to go on"
            ) from error


def pixel_bytes(source: Source) -> int:
    """Returns a source's bytes in the object store; images that stay in files take none."""
    parts = (source.train_data, source.test_data)
    return sum(part.nbytes for part in parts if isinstance(part, np.ndarray))

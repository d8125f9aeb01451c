"""The single MLflow writer of a study.

Only the driver of a study holds a `StudyTracker`; workers never import MLflow. Everything goes
through `MlflowClient` with explicit run ids: no active run, no global state. While a store is away
the study goes on, what is missing is kept on disk, and sent when the store is back.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hpo.cells.gpu_use import GpuUse
from hpo.tracking.details import maps_of, numbers_of, series_of
from hpo.tracking.journal import Journal, map_line, send_map
from hpo.tracking.run import TrackedRun, flatten
from hpo.tracking.signals import exit_on_sigterm, restore_sigterm
from hpo.tracking.store import (
    TrackingError,
    check_tracking_uri,
    default_tracking_uri,
    first_line,
    is_database,
    local_tracking_uri,
    mlflow_settings,
    open_experiment,
    shown_uri,
    store_errors,
    told_cause,
    way_out,
)
from hpo.tracking.stored import (
    DIGEST,
    STATUS_OF,
    RunStatus,
    run_key,
    runs_to_continue,
    settle,
    stored_runs,
)
from hpo.tracking.views import NOTE, whole_lines
from hpo.tracking.writing import Writing

if TYPE_CHECKING:
    import numpy as np

    from hpo.cells.cell import Cell
    from hpo.cells.record import CellRecord
from hpo.cells.summary import SummaryRow

__all__ = [
    "RunStatus",
    "StudyTracker",
    "SummaryRow",
    "TrackingError",
    "check_tracking_uri",
    "default_tracking_uri",
]

_FLUSH_SECONDS = 5.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _EndedCell:
    """What is kept of a cell's run that has ended in the store."""

    run_id: str
    digest: str | None


class StudyTracker:
    """One experiment for a study, one parent run for a study identity, a child run for each cell.

    A tracker with a ``study_id`` that the store knows continues the same parent and children.
    Use it as a context manager: whatever ends the block, every run is left in a terminal state
    (FAILED after an exception, KILLED after Ctrl-C, SystemExit or SIGTERM, which raises it).

    Args:
        uri: tracking URI; None records in ``output/mlflow.db``. Artifacts go to
            ``output/mlartifacts``, or where a tracking server wants them.
        output: the study's output folder; created for the default store.
        experiment: name of the MLflow experiment, one for each study.
        study_id: identity of the study: same configuration, same id.
        params: parameters of the parent run; nested mappings get dotted names.
        description: of the study, shown above the experiment's runs.
        previous_study_id: an identity that this study takes the place of; what is RUNNING under
            it becomes KILLED.

    Raises:
        TrackingError: the store cannot be reached, within about ten seconds, or it knows the
            experiment as deleted.
    """

    def __init__(
        self,
        uri: str | None,
        *,
        output: Path,
        experiment: str,
        study_id: str,
        params: Mapping[str, Any],
        description: str = "",
        previous_study_id: str | None = None,
    ) -> None:
        from mlflow import MlflowClient

        self.uri = uri if uri is not None else default_tracking_uri(output)
        check_tracking_uri(self.uri)
        self._output = output
        self._experiment = experiment
        self._study_id = study_id
        self._runs: dict[str, TrackedRun] = {}
        self._ended: dict[str, _EndedCell] = {}  # no longer among the runs: those are large
        self._behind: dict[str, TrackedRun] = {}  # what the store lacks something of, in order
        self._files: list[Path] = []
        self._maps: list[tuple[TrackedRun, int, np.ndarray]] = []
        self._kept: set[str] = set()  # lines of files that are in the journal
        self._note: dict[str, str] = {}  # tag of the parent run
        self._journal = Journal(output, self.uri)
        self._writing = Writing(self.uri)
        self._closed = False
        exit_on_sigterm()  # or runs would stay RUNNING for ever
        try:
            with mlflow_settings():
                self._client: Any = MlflowClient(self.uri)
                self._experiment_id = open_experiment(
                    self._client, self.uri, experiment, output, description
                )
                # What a study before this one left; files that are refused stay in it.
                self._foreign = self._journal.send(self._client, self.uri).trouble != []
            self._parent = self._open(experiment, params, previous_study_id)
        except BaseException as error:
            restore_sigterm()
            if not isinstance(error, store_errors()):
                raise
            raise TrackingError(
                f"the MLflow store {shown_uri(self.uri)} failed while opening the experiment "
                f"{experiment!r}: {first_line(error)}. {way_out(self.uri, error)}"
            ) from told_cause(self.uri, error)

    @property
    def how_to_open(self) -> str:
        """A command that shows this store in the MLflow UI, or the address of its server."""
        if is_database(self.uri):
            return f'mlflow ui --backend-store-uri "{shown_uri(self.uri)}"'
        return shown_uri(self.uri)

    def start_cell(self, cell: Cell) -> None:
        """Set the cell's run RUNNING: the incomplete one of before, else a new one.

        A run that is complete is replaced (deleted, which MLflow can undo): its cell is being
        trained anew, and two trainings must not share a curve. A cell that this tracker has
        started and not ended stays as it is.
        """
        run = self._runs.get(cell.id)
        if run is None or run.status is not None:
            self._sync(self._cell_run(cell))

    def epoch(self, cell_id: str, metrics: Mapping[str, float | None]) -> None:
        """Note one epoch of a started cell; sent together with others, every few seconds.

        Args:
            cell_id: id of a cell that `start_cell` was given.
            metrics: ``epoch`` (from 1) is the step, every number is logged under its name. An epoch
                that the run has already is not logged again.
        """
        run = self._runs[cell_id]
        run.add_epoch(metrics)
        if time.monotonic() - run.synced_at >= _FLUSH_SECONDS:
            self._sync(run)

    def end_cell(self, record: CellRecord) -> None:
        """Complete the cell's run from its stored record, and end it.

        Works for any record: one trained by an earlier invocation, perhaps with another store,
        gets its full run; one whose run is complete costs nothing.
        """
        cell, digest = record.cell, _digest(record)
        run, ended = self._runs.get(cell.id), self._ended.get(cell.id)
        stored = self._stored.get(cell.id)
        if run is not None:
            known = run.tags.get(DIGEST)
        elif ended is not None:
            known = ended.digest
        else:
            known = stored.tags[DIGEST] if stored is not None and stored.is_complete else None
        if known == digest:
            return
        if run is None or run.status is not None:
            run = self._cell_run(cell)
        for metrics in record.result.get("history", ()):
            run.add_epoch(metrics)
        where = {k: v for k, v in record.environment.items() if k in ("host", "node")}
        tags: dict[str, str] = {"status": record.status, **where}
        if record.status != "crashed":  # such a run goes on when the cell is tried again
            tags[DIGEST] = digest
        if record.error or "error" in run.stored_tags:
            tags["error"] = record.error or ""
        result = record.result
        use = GpuUse.from_environment(record.environment)
        memory = {} if use is None else {"gpu_peak_bytes": use.peak}
        numbers = {**result, **numbers_of(result), **memory}
        run.finish(STATUS_OF[record.status], numbers, tags, series_of(result))
        self._maps += [(run, epoch, lam) for epoch, lam in maps_of(result).items()]
        self._sync(run)
        if self._maps:
            self._try_files()

    def summarise(self, rows: Iterable[SummaryRow]) -> None:
        """One summary run for each method and data set; a later call updates the same runs."""
        for row in rows:
            identity = {"kind": "summary", "method": row.method, "dataset": row.dataset}
            metrics = {
                "mean_error": row.mean_error,
                "ci_low": row.ci_low,
                "ci_high": row.ci_high,
                "n_seeds": row.n_seeds,
                "train_seconds": row.train_seconds,
                "samples_seen": row.samples_seen,
                **row.further,
            }
            # A chart has parameters on its axes, not tags.
            run = self._run(identity, {"method": row.method})
            run.finish(
                "FINISHED",
                {name: value for name, value in metrics.items() if not math.isnan(value)},
                {"setting": row.setting},
            )
            self._sync(run)

    def log_figure_files(self, paths: Sequence[Path]) -> None:
        """Store finished tables and figures as artifacts of the parent run."""
        self._files += paths
        self._try_files()

    def describe(self, markdown: str) -> None:
        """Have the parent run show ``markdown`` as its description, once it has ended.

        MLflow keeps 8,000 characters; longer texts end before the first line that is too much.
        """
        self._note = {NOTE: whole_lines(markdown)}

    def close(self, status: RunStatus) -> None:
        """End every run of this study and delete duplicates; a second call does nothing.

        SIGTERM or Ctrl-C meanwhile still leaves every run in a terminal state, unless ``status``
        is KILLED, that is, unless it comes a second time.

        Args:
            status: of the parent and of the cells still open, which become KILLED when the study
                FINISHED without them. So does every other run of the study that is RUNNING.

        Raises:
            TrackingError: something could not be written; the message says how to complete it.
        """
        if self._closed:
            return
        self._closed = True
        self._writing.last_time()
        try:
            self._end_runs(status)
        except (KeyboardInterrupt, SystemExit):
            if status != "KILLED":
                self._writing.last_time(brief=True)
                self._end_runs("KILLED")
            raise
        finally:
            restore_sigterm()
        if self._writing.trouble is not None:
            raise TrackingError(self._incomplete(self._writing.trouble))

    def __enter__(self) -> StudyTracker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close("FINISHED")
            return
        try:
            self.close("KILLED" if issubclass(kind, (KeyboardInterrupt, SystemExit)) else "FAILED")
        except TrackingError as trouble:  # what ended the study matters more
            _logger.warning("%s", trouble)

    def _open(
        self, experiment: str, params: Mapping[str, Any], previous_study_id: str | None
    ) -> TrackedRun:
        """Settle what earlier drivers left, and return the parent run, RUNNING."""
        client, place = self._client, self._experiment_id
        tags = {"study_id": self._study_id, "kind": "study"}
        try:
            with mlflow_settings():
                if previous_study_id is not None:
                    settle(client, stored_runs(client, place, previous_study_id), {})
                found = stored_runs(client, place, self._study_id)
                self._stored = runs_to_continue(found)
                settle(client, found, {key: run.run_id for key, run in self._stored.items()})
                stored = self._stored.pop(run_key(tags), None)
                parent = TrackedRun(experiment, tags, flatten(params), stored=stored)
                parent.sync(client, place)
        except BaseException:
            # The parent may be there, RUNNING, even if its id never arrived here.
            with suppress(*store_errors()), mlflow_settings("brief"):
                settle(client, stored_runs(client, place, self._study_id), {})
            raise
        return parent

    def _cell_run(self, cell: Cell) -> TrackedRun:
        identity = {
            "kind": "cell",
            "cell_id": cell.id,
            "method": cell.method,
            "dataset": cell.dataset,
            "seed": str(cell.seed),
            "purpose": cell.purpose,
        }
        population = cell.to_dict().get("population")  # None is left out
        params = {"method": cell.method, **cell.training.to_dict(), "population": population}
        return self._run(identity, flatten(params))

    def _run(self, identity: Mapping[str, str], params: Mapping[str, str]) -> TrackedRun:
        """The run to write for these tags: one that is complete is replaced, not written over."""
        key = run_key(identity)
        current, stored = self._runs.get(key), self._stored.pop(key, None)
        ended = self._ended.pop(key, None)
        replaces = None
        if identity["kind"] != "cell":
            if current is not None:
                return current
        elif current is not None:
            replaces = current.run_id
        elif ended is not None:
            replaces = ended.run_id
        elif stored is not None and stored.is_complete:
            replaces, stored = stored.run_id, None
        tags = {
            "study_id": self._study_id,
            "mlflow.parentRunId": str(self._parent.run_id),
            **identity,
        }
        later = identity["kind"] == "cell"
        self._runs[key] = TrackedRun(
            key, tags, params, stored=stored, replaces=replaces, params_later=later
        )
        return self._runs[key]

    def _sync(self, run: TrackedRun) -> None:
        """Write the run, and before it what the store has missed; what it does not take is kept."""
        self._behind[run_key(run.tags)] = run
        for key, waiting in list(self._behind.items()):
            sent = self._writing.records(partial(waiting.sync, self._client, self._experiment_id))
            del self._behind[key]
            if not sent:  # it goes last, or one that the store does not want would hold up others
                self._behind[key] = waiting
            elif waiting.ended and waiting is self._runs.get(key) and "cell_id" in waiting.tags:
                del self._runs[key]
                self._ended[key] = _EndedCell(str(waiting.run_id), waiting.tags.get(DIGEST))
        run.synced_at = time.monotonic()
        if self._behind:
            self._keep(line for waiting in self._behind.values() for line in waiting.unsent())
        elif not (self._files or self._maps or self._foreign):
            self._journal.clear()
            self._kept.clear()

    def _try_files(self) -> None:
        self._writing.files(self._send_files)
        lines = list(self._journal.file_lines(self._files))
        lines += [map_line(run_key(run.tags), epoch, lam) for run, epoch, lam in self._maps]
        fresh = {json.dumps(line): line for line in lines if json.dumps(line) not in self._kept}
        self._kept |= fresh.keys()
        self._keep(fresh.values())

    def _keep(self, lines: Iterable[Mapping[str, Any]]) -> None:
        self._journal.append(self._study_id, self._experiment, lines)

    def _incomplete(self, trouble: str) -> str:
        command = ["python", "-m", "hpo.complete_tracking", str(self._output)]
        if self.uri != local_tracking_uri(self._output):
            command += ["--tracking-uri", shown_uri(self.uri)]
        runs, files = len(self._behind), len(self._files) + len(self._maps)
        told = (
            f"the MLflow store {shown_uri(self.uri)} is incomplete: {trouble}. The results are "
            f"safe in the output folder, and what is missing (runs: {runs}, files: {files}) "
        )
        if self._journal.failed:
            return (
                f"{told}could not be kept beside them; once the store works, the same study run "
                "again, without --fresh, writes it and trains nothing twice"
            )
        return (
            f"{told}waits in {self._journal.path}; once the store works, `{shlex.join(command)}` "
            "sends it, and so does the same study run again, without --fresh: it trains nothing "
            "twice"
        )

    def _send_files(self) -> None:
        while self._files:
            self._client.log_artifact(self._parent.run_id, str(self._files[0]))
            self._files.pop(0)
        while self._maps and self._maps[0][0].run_id is not None:
            run, epoch, lam = self._maps[0]
            send_map(self._client, str(run.run_id), epoch, lam)
            self._maps.pop(0)

    def _end_runs(self, status: RunStatus) -> None:
        for run in list(self._runs.values()):
            if run.status is None:
                run.finish("KILLED" if status == "FINISHED" else status, {}, {})
            self._sync(run)
        self._try_files()
        self._writing.records(self._settle)
        if not self._parent.ended:
            self._parent.finish(status, {}, self._note)
        self._sync(self._parent)

    def _settle(self) -> None:
        found = stored_runs(self._client, self._experiment_id, self._study_id)
        runs = [self._parent, *self._runs.values()]
        ours = {key: ended.run_id for key, ended in self._ended.items()}
        ours |= {run_key(run.tags): run.run_id for run in runs if run.run_id is not None}
        settle(self._client, found, ours, running=self._parent.run_id)


def _digest(record: CellRecord) -> str:
    """Twelve hexadecimal digits that tell one outcome of a cell from another."""
    text = json.dumps(record.to_dict(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]

"""The single MLflow writer of a study.

Only the driver of a study holds a `StudyTracker`; workers never import MLflow. Everything goes
through `MlflowClient` with explicit run ids: no active run, no global state. While a store is away
the study goes on, and what the store misses is sent when it is back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.cells.summary import SummaryRow
from hpo.storage.protocol import Storage
from hpo.storage.shown import shown_uri
from hpo.tracking.content import (
    cell_params,
    cell_tags,
    digest_of,
    finish_cell,
    finish_summary,
    summary_tags,
)
from hpo.tracking.details import maps_of, send_map
from hpo.tracking.missing import Missing
from hpo.tracking.outbox import Artifact, Outbox
from hpo.tracking.run import TrackedRun, flatten
from hpo.tracking.signals import exit_on_signals, restore_signals
from hpo.tracking.store import check_tracking_uri, mlflow_settings, open_experiment, store_errors
from hpo.tracking.stored import (
    DIGEST,
    RunStatus,
    run_key,
    runs_to_continue,
    settle,
    stored_runs,
    surplus_summaries,
)
from hpo.tracking.uris import (
    TrackingError,
    default_tracking_uri,
    is_database,
    opening_error,
    shown_cause,
)
from hpo.tracking.views import NOTE, whole_lines

if TYPE_CHECKING:
    from hpo.cells.cell import Cell
    from hpo.cells.record import CellRecord

__all__ = ["StudyTracker", "TrackingError", "check_tracking_uri", "default_tracking_uri"]

FLUSH_SECONDS = 5.0
"""Epochs of a run are sent together after so long."""

_logger = logging.getLogger(__name__)


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
        storage: where a cell's record is before `end_cell` is given it, unless it crashed. None:
            nowhere, and what the store misses of a cell is noted with its record.
        missing: what the store is known to lack of the study, kept with how that ended; None:
            looked up in the output folder.

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
        storage: Storage | None = None,
        missing: Missing | None = None,
    ) -> None:
        from mlflow import MlflowClient

        self.uri = uri if uri is not None else default_tracking_uri(output)
        check_tracking_uri(self.uri)
        self._output = output
        self._storage = storage
        self._study_id = study_id
        self._runs: dict[str, TrackedRun] = {}
        if missing is None:
            missing = Missing.of(output, self.uri, study_id, experiment)
            missing.params, missing.status, missing.note = flatten(params), None, ""
        self._missing = missing
        self._closed = False
        exit_on_signals()  # or runs would stay RUNNING for ever
        try:
            with mlflow_settings():
                self._client: Any = MlflowClient(self.uri)
                self._experiment_id = open_experiment(
                    self._client, self.uri, experiment, output, description
                )
            self._parent = self._open(experiment, params, previous_study_id)
        except BaseException as error:
            restore_signals()
            if not isinstance(error, store_errors()):
                raise
            raise opening_error(self.uri, experiment, error) from shown_cause(self.uri, error)
        self._outbox = Outbox(self._client, self._experiment_id, self.uri, self._missing)

    @property
    def how_to_open(self) -> str:
        """Returns a command that shows this store in the MLflow UI, or the address of its
        server."""
        if is_database(self.uri):
            return f'mlflow ui --backend-store-uri "{shown_uri(self.uri)}"'
        return shown_uri(self.uri)

    def start_cell(self, cell: Cell) -> None:
        """Sets the cell's run RUNNING: the incomplete one of before, else a new one.

        A run that is complete is replaced (deleted, which MLflow can undo): its cell is being
        trained anew, and two trainings must not share a curve. A cell that this tracker has
        started and not ended stays as it is.
        """
        run = self._runs.get(cell.id)
        if run is None or run.status is not None:
            self._missing.runs.pop(cell.id, None)
            self._write(self._run(cell_tags(cell), cell_params(cell)))

    def epoch(self, cell_id: str, metrics: Mapping[str, float | None]) -> None:
        """Notes one epoch of a started cell; sent together with others, every few seconds.

        Args:
            cell_id: id of a cell that `start_cell` was given.
            metrics: ``epoch`` (from 1) is the step, every number is logged under its name. An epoch
                that the run has already is not logged again.
        """
        run = self._runs[cell_id]
        run.add_epoch(metrics)
        if time.monotonic() - run.synced_at >= FLUSH_SECONDS:
            self._write(run)

    def end_cell(self, record: CellRecord) -> None:
        """Completes the cell's run from its record, and ends it.

        Works for any record: one trained by an earlier invocation, perhaps with another store,
        gets its full run; one whose run is complete costs nothing.
        """
        cell, digest = record.cell, digest_of(record)
        run, stored = self._runs.get(cell.id), self._stored.get(cell.id)
        known = run.tags.get(DIGEST) if run else stored.digest if stored else None
        if known == digest and cell.id not in self._missing.runs:
            return
        if run is None or run.status is not None:
            run = self._run(cell_tags(cell), cell_params(cell), digest)
        finish_cell(run, record)
        is_stored = self._storage is not None and record.status != "crashed"
        self._missing.runs[cell.id] = None if is_stored else record.to_dict()
        maps = maps_of(record.result)
        for epoch, lam in maps.items():
            send = partial(send_map, self._client, epoch=epoch, lam=lam)
            self._outbox.artifacts.append(Artifact(run, f"map of {cell.id}", send))
        self._write(run)
        if maps:
            self._outbox.write_artifacts()

    def summarise(self, rows: Iterable[SummaryRow], *, whole: bool = True) -> None:
        """Writes a summary run for each method and data set; a later call updates the same runs.

        Args:
            rows: the summaries to write.
            whole: they are all that the study has; those of other rows, which an earlier command
                asked for, are deleted (MLflow can restore them).
        """
        rows = list(rows)
        if whole:
            asked_for = {run_key(summary_tags(row)) for row in rows}
            for key, run_id in surplus_summaries(self._stored, asked_for).items():
                if self._outbox.attempt(partial(self._client.delete_run, run_id)):
                    del self._stored[key]
        for row in rows:
            # A chart has parameters on its axes, not tags.
            run = self._run(summary_tags(row), {"method": row.method})
            finish_summary(run, row)
            self._missing.runs[run.key] = asdict(row)
            self._write(run)

    def log_figure_files(self, paths: Sequence[Path]) -> None:
        """Stores finished tables and figures as artifacts of the parent run."""
        for path in paths:
            name = self._missing.note_file(path, self._output)
            send = partial(self._client.log_artifact, local_path=str(path))
            self._outbox.artifacts.append(Artifact(self._parent, path.name, send, name))
        self._outbox.write_artifacts()

    def describe(self, markdown: str) -> None:
        """Has the parent run show ``markdown`` as its description, once it has ended.

        MLflow keeps 8,000 characters; longer texts end before the first line that is too much.
        """
        self._missing.note = whole_lines(markdown)

    def close(self, status: RunStatus) -> None:
        """Ends every run of this study and deletes duplicates; a second call does nothing.

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
        self._outbox.last_time()
        try:
            self._end_runs(status)
        except (KeyboardInterrupt, SystemExit):
            if status != "KILLED":
                self._outbox.last_time(brief=True)
                self._end_runs("KILLED")
            raise
        finally:
            restore_signals()
        if self._outbox.trouble is not None:
            raise TrackingError(
                f"the MLflow store {shown_uri(self.uri)} is incomplete: {self._outbox.trouble}. "
                f"The results are safe, and {self._missing.way_out(self.uri, self._storage)}"
            )

    def __enter__(self) -> StudyTracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
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
        """Settles what earlier drivers left, and returns the parent run, RUNNING."""
        client, place = self._client, self._experiment_id
        tags = {"study_id": self._study_id, "kind": "study"}
        try:
            with mlflow_settings():
                if previous_study_id is not None:
                    settle(client, stored_runs(client, place, previous_study_id), {})
                runs = stored_runs(client, place, self._study_id)
                self._stored = runs_to_continue(runs)
                settle(client, runs, {key: run.run_id for key, run in self._stored.items()})
                stored = self._stored.pop(run_key(tags), None)
                parent = TrackedRun(experiment, tags, flatten(params), stored=stored)
                parent.sync(client, place)
        except BaseException:
            # The parent may be there, RUNNING, even if its id never arrived here.
            with suppress(*store_errors()), mlflow_settings("brief"):
                settle(client, stored_runs(client, place, self._study_id), {})
            raise
        return parent

    def _run(
        self, identity: Mapping[str, str], params: Mapping[str, str], digest: str | None = None
    ) -> TrackedRun:
        """Returns the run to write for these tags.

        One that is complete is replaced, not written over, unless it is of the same digest.
        """
        key = run_key(identity)
        current, stored = self._runs.get(key), self._stored.pop(key, None)
        replaces = None
        if current is not None and "cell_id" not in identity:
            return current
        if current is not None:
            replaces = current.run_id
        elif stored is not None and stored.digest not in (None, digest):
            replaces, stored = stored.run_id, None
        tags = {
            "study_id": self._study_id,
            "mlflow.parentRunId": str(self._parent.run_id),
            **identity,
        }
        self._runs[key] = TrackedRun(key, tags, params, stored=stored, replaces=replaces)
        return self._runs[key]

    def _write(self, run: TrackedRun) -> None:
        for taken in self._outbox.write(run):
            if taken.ended and taken is self._runs.get(taken.key) and "cell_id" in taken.tags:
                del self._runs[taken.key]  # it is large
                self._stored[taken.key] = taken.stored()

    def _end_runs(self, status: RunStatus) -> None:
        self._missing.status = self._missing.status or status
        for run in list(self._runs.values()):
            if run.status is None:
                run.finish("KILLED" if status == "FINISHED" else status, {}, {})
            self._write(run)
        self._outbox.write_artifacts()
        self._outbox.attempt(self._settle)
        if not self._parent.ended:
            self._parent.finish(status, {}, {NOTE: note} if (note := self._missing.note) else {})
            self._missing.runs[self._parent.key] = None
        self._write(self._parent)

    def _settle(self) -> None:
        ours = {key: stored.run_id for key, stored in self._stored.items()}
        for run in [self._parent, *self._runs.values()]:
            if run.run_id is not None:
                ours[run.key] = run.run_id
        active = stored_runs(self._client, self._experiment_id, self._study_id)
        settle(self._client, active, ours, running=self._parent.run_id)

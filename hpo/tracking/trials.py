"""The trials of a comparison as MLflow runs, below one run for the comparison."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from posixpath import normpath
from typing import Any

from hpo.cells.trials import Key, Trial
from hpo.storage.shown import shown_uri
from hpo.tracking.run import storable
from hpo.tracking.signals import exit_on_signals, restore_signals
from hpo.tracking.store import check_tracking_uri, mlflow_settings, open_experiment, store_errors
from hpo.tracking.stored import runs_where
from hpo.tracking.uris import (
    default_tracking_uri,
    first_line,
    opening_error,
    shown_cause,
)

_logger = logging.getLogger(__name__)
_PAGE = 1000  # of MLflow's limit on values of one request

_RECORDED = ("value", "seconds")

_LONGEST = 240  # of the 250 characters that MLflow takes, so that a suffix fits


def recorded_names(names: Iterable[str]) -> dict[str, str]:
    """Returns what MLflow takes for each name of a metric, which is mostly the name itself.

    What it refuses, such as "@", becomes "_", as it is put behind the names of what is recorded
    anyway; two names that would be one get a suffix each.

    Examples:
        >>> recorded_names(["val/loss", "acc@1"])
        {'val/loss': 'val/loss', 'acc@1': 'acc_1'}
    """
    taken: dict[str, str] = {}
    for name in names:
        text = re.sub(r"[^/\w.\- :]", "_", name)[:_LONGEST] or "_"
        if normpath(text) != text or text.startswith(("..", "/")) or text == ".":
            text = re.sub("[/.]", "_", text)  # it would be no path of its own
        if text in _RECORDED:
            text += "_"
        taken[name] = text
    owners = Counter(taken.values())
    return {
        name: text
        if text == name or owners[text] == 1
        else f"{text}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        for name, text in taken.items()
    }


class TrackedComparison:
    """One run for the comparison and a child for each trial, whose run every attempt goes on with.

    What a store does not take is written by the next call with the same output: the trials are
    kept there. A context manager, which ends the run.

    Args:
        uri: of the store; None records in ``output/mlflow.db``.
        output: the comparison's folder.
        name: of the MLflow experiment.
        identity: of the comparison, whatever else was compared in a folder of this name; see
            `hpo.storage.output_folder.study_id`.

    Raises:
        TrackingError: the store cannot be used.
    """

    def __init__(self, uri: str | None, output: Path, name: str, identity: str):
        from mlflow import MlflowClient

        self.uri = default_tracking_uri(output) if uri is None else uri
        check_tracking_uri(self.uri)
        self._away = False
        try:
            with mlflow_settings():
                self._client: Any = MlflowClient(self.uri)
                self._experiment = open_experiment(self._client, self.uri, name, output)
                self._parent = self._find_parent(str(output.resolve()), name, identity)
                self._known = self._find_trials()
        except store_errors() as error:
            raise opening_error(self.uri, name, error) from shown_cause(self.uri, error)

    def __enter__(self) -> TrackedComparison:
        exit_on_signals()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        stopped = kind is not None and issubclass(kind, (KeyboardInterrupt, SystemExit))
        status = "FINISHED" if kind is None else "KILLED" if stopped else "FAILED"
        self._attempt(lambda: self._client.set_terminated(self._parent, status))
        restore_signals()

    def trial(self, trial: Trial) -> None:
        """Writes the trial's run, unless the store has it."""
        run = self._known.get(trial.key)
        if run is None or run.info.status != "FINISHED":
            self._attempt(lambda: self._write(trial, run))

    def result(self, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        """Writes what the comparison found."""

        def write() -> None:
            names = recorded_names(metrics)
            for name, value in metrics.items():
                self._client.log_metric(self._parent, names[name], value)
            for path in files:
                self._client.log_artifact(self._parent, str(path))

        self._attempt(write)

    def _find_parent(self, output: str, name: str, identity: str) -> str:
        tags = {"kind": "comparison", "output": storable(output), "comparison_id": identity}
        for run in self._client.search_runs([self._experiment], "tags.kind = 'comparison'"):
            stored = run.data.tags
            of_this_path = identity if stored.get("output") == tags["output"] else None
            if stored.get("comparison_id", of_this_path) == identity:  # earlier ones have none
                self._client.update_run(run.info.run_id, status="RUNNING")
                self._client.set_tag(run.info.run_id, "comparison_id", identity)
                return str(run.info.run_id)
        run = self._client.create_run(self._experiment, tags=tags, run_name=name)
        return str(run.info.run_id)

    def _find_trials(self) -> dict[Key, Any]:
        """Returns the run of each trial; of several, as earlier versions wrote, one that ended
        well, else the first."""
        ours = f"tags.`mlflow.parentRunId` = '{self._parent}'"
        known: dict[Key, Any] = {}
        for run in runs_where(self._client, self._experiment, ours):
            key = run.data.tags["function"], int(run.data.tags["seed"])
            if key not in known or run.info.status == "FINISHED" != known[key].info.status:
                known[key] = run
        return known

    def _write(self, trial: Trial, known: Any | None) -> None:
        """Writes a trial into a run of its own, or the one that an earlier attempt left."""
        from mlflow.entities import Metric

        if known is None:
            tags = {
                "kind": "trial",
                "mlflow.parentRunId": self._parent,
                "function": trial.function,
                "seed": str(trial.seed),
            }
            name = f"{trial.function}-s{trial.seed}"
            known = self._client.create_run(self._experiment, tags=tags, run_name=name)
        run = known.info.run_id
        if trial.error:
            self._client.set_tag(run, "error", storable(trial.error))
        elif "error" in known.data.tags:
            self._client.delete_tag(run, "error")
        # Of equal steps the later time counts: what ended well replaces what had failed.
        time = 0 if trial.error else 1
        names = recorded_names(key for reported in trial.reports for key in reported)
        metrics = [
            Metric(names[key], value, time, step)
            for step, reported in enumerate(trial.reports, start=1)
            for key, value in reported.items()
        ]
        for name in _RECORDED:
            if (number := getattr(trial, name)) is not None:
                metrics.append(Metric(name, number, time, 0))
        for first in range(0, len(metrics), _PAGE):
            self._client.log_batch(run, metrics=metrics[first : first + _PAGE])
        self._client.set_terminated(run, "FAILED" if trial.error else "FINISHED")

    def _attempt(self, action: Callable[[], Any]) -> None:
        try:
            with mlflow_settings("running"):
                action()
        except store_errors() as error:
            if not self._away:
                _logger.warning(
                    "the MLflow store %s does not take records (%s); the trials are kept in the "
                    "output folder, and the same call again completes it",
                    shown_uri(self.uri),
                    first_line(error),
                )
            self._away = True

"""The runs that an MLflow store has of a study: looked up, chosen between, ended, deleted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Literal

from hpo.tracking.store import mlflow_settings

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

# A pruned trial was stopped on purpose before its budget was spent. FINISHED is for runs that
# completed, and a filter on it must not mix them with full trainings; FAILED is for errors.
# KILLED with the tag status=pruned says what happened.
STATUS_OF: Mapping[str, RunStatus] = {
    "finished": "FINISHED",
    "diverged": "FAILED",
    "crashed": "FAILED",
    "pruned": "KILLED",
}
DIGEST = "result_digest"  # tag of a cell's run that has the whole record
# Logged with every epoch, so that its history tells which epochs the store has.
MARKER = "epoch"


@dataclass(frozen=True)
class StoredRun:
    """A run as the store had it when it was looked up; metrics are the latest values."""

    run_id: str
    status: str
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    latest_at: int = 0  # milliseconds: when it began, or when it ended

    @property
    def key(self) -> str:
        """Returns `run_key` of the run's tags."""
        return run_key(self.tags)

    @property
    def digest(self) -> str | None:
        """Returns the digest of the record that a cell's run has whole, and has ended with."""
        # The digest is written after everything else, and before the state that ends the run.
        is_ended = self.status == STATUS_OF.get(self.tags.get("status", ""))
        return self.tags.get(DIGEST) if is_ended else None


def run_key(tags: Mapping[str, str]) -> str:
    """Returns what tells a study's runs apart: the cell id, or kind, method and data set."""
    kind = tags.get("kind", "")
    if kind == "cell":
        return tags["cell_id"]
    return " ".join([kind, *(tags[name] for name in ("method", "dataset") if name in tags)])


def stored_runs(client: Any, experiment_id: str, study_id: str) -> list[StoredRun]:
    """Returns the runs that the store has for ``study_id``, the oldest first; no deleted ones."""
    quote = '"' if "'" in study_id else "'"
    runs: list[StoredRun] = []
    for run in runs_where(client, experiment_id, f"tags.study_id = {quote}{study_id}{quote}"):
        data, info = run.data, run.info
        latest_at = max(info.start_time or 0, info.end_time or 0)
        runs.append(
            StoredRun(info.run_id, info.status, data.tags, data.params, data.metrics, latest_at)
        )
    return runs


def runs_where(client: Any, experiment_id: str, condition: str) -> Iterator[Any]:
    """Yields MLflow's runs of an experiment for which a condition holds, the oldest first."""
    token: str | None = ""
    while token is not None:
        order = ["attributes.start_time ASC"]
        page = client.search_runs(
            [experiment_id], condition, order_by=order, page_token=token or None
        )
        yield from page
        token = page.token or None


def runs_to_continue(runs: Iterable[StoredRun]) -> dict[str, StoredRun]:
    """Returns for each key of ``runs`` the run to go on with.

    Several have one key when a server created a run and its answer was lost, or when the driver
    was ended before it had the answer. Of these it is the one with children, else the one with
    the whole record, else with the most epochs, else the first.
    """
    runs = list(runs)
    parents = {run.tags.get("mlflow.parentRunId") for run in runs}

    def worth(run: StoredRun) -> tuple[bool, bool, float]:
        return run.run_id in parents, run.digest is not None, run.metrics.get(MARKER, 0.0)

    chosen: dict[str, StoredRun] = {}
    for run in runs:
        if run.key not in chosen or worth(run) > worth(chosen[run.key]):
            chosen[run.key] = run
    return chosen


def surplus_summaries(stored: Mapping[str, StoredRun], asked_for: Set[str]) -> dict[str, str]:
    """Returns key and id of the summaries of rows that are no longer asked for."""
    keys = [key for key in stored if key.startswith("summary ") and key not in asked_for]
    return {key: stored[key].run_id for key in keys}


def settle(
    client: Any, runs: Iterable[StoredRun], ours: Mapping[str, str], running: str | None = None
) -> None:
    """Ends ``runs`` that nobody writes any more, and deletes the superfluous ones.

    Args:
        client: the ``MlflowClient`` to write with.
        runs: what the store has; those that are RUNNING become KILLED.
        ours: id of the only run to keep, by `run_key`. Others of these keys are deleted, which
            MLflow can undo; runs of keys that are not here stay.
        running: id of a run that may be RUNNING.
    """
    for run in runs:
        if run.status == "RUNNING" and run.run_id != running:
            client.set_terminated(run.run_id, "KILLED")
        if ours.get(run.key, run.run_id) != run.run_id:
            client.delete_run(run.run_id)


def runs_of_study(uri: str, experiment: str, study_id: str) -> list[StoredRun]:
    """Returns the runs that the store at ``uri`` has for a study; none where it has none yet."""
    from mlflow import MlflowClient

    with mlflow_settings():
        client = MlflowClient(uri)
        stored = client.get_experiment_by_name(experiment)
        return [] if stored is None else stored_runs(client, stored.experiment_id, study_id)

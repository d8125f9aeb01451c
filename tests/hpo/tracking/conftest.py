"""A tracker's store, as any client of MLflow sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run, ViewType

from hpo.cells.record import CellRecord
from hpo.tracking.store import mlflow_settings
from hpo.tracking.tracker import StudyTracker
from mlflow import MlflowClient
from tests.support.stores import client_of, statuses


class Study:
    """The study `table2` in an output folder, and what the folder's own store says of it."""

    def __init__(self, output: Path):
        self.output = output

    def open(
        self, uri: str | None = None, *, study_id: str = "1234", **options: Any
    ) -> StudyTracker:
        """Returns a tracker; ``params`` and whatever else it takes are among the options."""
        options = {"experiment": "table2", "params": {}, **options}
        return StudyTracker(uri, output=self.output, study_id=study_id, **options)

    @contextmanager
    def interrupted(self, error: BaseException) -> Iterator[StudyTracker]:
        """Yields a tracker whose block is ended by the error, after what the test does in it."""
        with suppress(type(error)), self.open() as tracker:
            yield tracker
            raise error

    @property
    def client(self) -> MlflowClient:
        with mlflow_settings():
            return client_of(self.output)

    def runs(self, view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
        with mlflow_settings():
            experiment = self.client.get_experiment_by_name("table2")
            assert experiment is not None
            runs = self.client.search_runs([experiment.experiment_id], run_view_type=view)
        return list(runs)

    def run(self, name: str) -> Run:
        [run] = [run for run in self.runs() if run.info.run_name == name]
        return run

    def statuses(self) -> dict[str, str]:
        """Status by name, of the runs that are not deleted; names must be unique."""
        return statuses(self.output)

    def stages(self, name: str) -> list[tuple[str, str]]:
        """Stage (active or deleted) and status of all runs of this name, sorted."""
        runs = (run.info for run in self.runs(ViewType.ALL) if run.info.run_name == name)
        return sorted((info.lifecycle_stage, info.status) for info in runs)

    def metric(self, name: str, key: str) -> list[tuple[int, float]]:
        """Step and value, in order."""
        with mlflow_settings():
            history = self.client.get_metric_history(self.run(name).info.run_id, key)
        history = sorted(history, key=lambda metric: (metric.step, metric.timestamp))
        return [(metric.step, metric.value) for metric in history]

    def content(self) -> dict[str, Any]:
        """Returns all that the store says of runs that are not deleted, without ids and times."""
        self.statuses()
        content = {}
        for run in self.runs():
            name, data = run.info.run_name, run.data
            metrics = {key: repr(self.metric(name, key)) for key in data.metrics}
            tags = {k: v for k, v in data.tags.items() if k != "mlflow.parentRunId"}
            content[name] = (run.info.status, metrics, tags, data.params)
        return content

    def files(self, pattern: str) -> list[str]:
        """Names of the artifacts that match, sorted."""
        return sorted(path.name for path in (self.output / "mlartifacts").rglob(pattern))


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[[str], Study]:
    """make(name): a study whose output folder has the default store, empty."""

    def make(name: str) -> Study:
        (tmp_path / name).mkdir()
        return Study(tmp_path / name)

    return make


@pytest.fixture
def study(make_study: Callable[[str], Study]) -> Study:
    return make_study("out")


@pytest.fixture(scope="session")
def train() -> Callable[..., None]:
    """train(tracker, record, epochs): tell the tracker these epochs of the record."""

    def train(tracker: StudyTracker, record: CellRecord, epochs: slice = slice(None)) -> None:
        tracker.start_cell(record.cell)
        for metrics in record.result.history[epochs]:
            tracker.epoch(record.cell.id, metrics)

    return train


class Outage:
    """Every writing call of every client fails while it lasts."""

    CALLS = ("create_run", "update_run", "log_batch", "set_terminated", "search_runs", "delete_run",
             "log_artifact", "get_metric_history", "log_image", "list_artifacts")  # fmt: skip

    def __init__(self) -> None:
        self.calls = 0

    @contextmanager
    def __call__(self, *names: str, error: str = "no route to host") -> Iterator[None]:
        """Makes these calls fail, all by default."""

        def away(*_: Any, **__: Any) -> None:
            self.calls += 1
            raise OSError(error)

        with pytest.MonkeyPatch.context() as patch:
            for name in names or self.CALLS:
                patch.setattr(MlflowClient, name, away)
            yield


@pytest.fixture
def outage() -> Outage:
    return Outage()

"""What a study left in its store of runs and in its folder of results; stores for studies here."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from mlflow.entities import Run

from hpo.tracking import store as stores
from hpo.tracking.store import mlflow_settings
from hpo.tracking.uris import local_tracking_uri
from mlflow import MlflowClient


@pytest.fixture(autouse=True, scope="session")
def copied_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], None]]:
    """Empty stores that this process makes are copies of one: MLflow takes a second for each.

    Yields what creates one at a URI.
    """
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    create = stores.create_tables

    def copy(uri: str) -> None:
        if not path.exists():
            with mlflow_settings():
                create(f"sqlite:///{path}")
        shutil.copyfile(path, unquote(uri.removeprefix("sqlite:///")))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "create_tables", copy)
        yield create


def client_of(store: Path | str) -> MlflowClient:
    """Returns MLflow's client of a store: that of an output folder, or the one at a URI."""
    return MlflowClient(local_tracking_uri(store) if isinstance(store, Path) else store)


def tracked_runs(store: Path | str) -> list[Run]:
    """Returns all runs of a store that are not deleted."""
    with mlflow_settings():
        client = client_of(store)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return list(client.search_runs(experiments, max_results=10_000))


def steps_of(store: Path | str, run_id: str, metric: str) -> list[int]:
    """Returns the steps at which a run has values of a metric."""
    with mlflow_settings():
        return [value.step for value in client_of(store).get_metric_history(run_id, metric)]


def statuses(store: Path | str) -> dict[str, str]:
    """Returns the status of each run by its name; no two runs may have one name."""
    runs = tracked_runs(store)
    by_name = {str(run.info.run_name): str(run.info.status) for run in runs}
    assert len(by_name) == len(runs), "duplicated runs"
    return by_name


def results_of(output: Path) -> dict[Path, int]:
    """Returns the files of the cells that are stored in a folder, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in output.glob("cells/*/result.json")}

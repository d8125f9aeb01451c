"""How an MLflow store is opened: a check that fails within seconds, and patience.

MLflow's own patience suits a service that must ride out rate limits: seven retries of 120 seconds
over HTTP, ten growing pauses for a database. A mistyped address would hold a study for minutes
before it says so, hence the quick check here before anything is trained.
"""

from __future__ import annotations

import logging
import os
import shlex
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

from hpo.storage.atomic import in_place_of
from hpo.storage.shown import shown_uri
from hpo.tracking.signals import signals_held_back
from hpo.tracking.uris import (
    DATABASES,
    TrackingError,
    first_line,
    is_database,
    local_tracking_uri,
    needs_quotes,
    require_address,
    scheme,
    shown_cause,
    way_out,
)
from hpo.tracking.views import experiment_tags, missing_tags

Patience = Literal["brief", "running", "patient"]
# Read by MLflow at every request: seconds for an answer, and how often to ask again. While cells
# train, their workers wait for the driver, which must not wait for a server: what it does not take
# at once is kept and sent later. Before and after, the server is given two minutes to restart.
_PATIENCE: Mapping[Patience, tuple[str, str]] = {
    "brief": ("4", "1"),
    "running": ("10", "1"),
    "patient": ("30", "3"),
}
# set_terminated prints two lines for each run otherwise.
_SILENT = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
# Before anything imports MLflow: its telemetry sets a variable of this process for a moment, from a
# thread of its own, and a request that reads the environment meanwhile fails with a KeyError.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
_CONNECT_SECONDS = 4


def check_tracking_uri(uri: str) -> None:
    """Returns when the MLflow store at ``uri`` answers; takes at most about ten seconds.

    Args:
        uri: ``http(s)://HOST:PORT`` of a tracking server, or a database URI such as
            ``sqlite:////absolute/path/mlflow.db`` (created when it is not there).

    Raises:
        TrackingError: the store does not answer, is of an unknown kind, or its schema belongs to
            another MLflow version.
        ValueError: the text is empty, see `require_address`.
    """
    from mlflow import MlflowClient

    require_address(uri)
    try:
        with _environment(_limits("brief")), _quiet():
            if scheme(uri) in DATABASES:
                _connect_once(uri)
            MlflowClient(uri).search_experiments(max_results=1)
    except Exception as error:  # MLflow, SQLAlchemy, a missing database driver: all end here
        raise TrackingError(
            f"the MLflow store {shown_uri(uri)} cannot be used: {first_line(error)}. "
            f"{way_out(uri, error)}"
        ) from shown_cause(uri, error)


def open_experiment(client: Any, uri: str, name: str, output: Path, description: str = "") -> str:
    """Returns the id of the experiment ``name``, created where the store has none.

    It has the saved views of `hpo.tracking.views`, and the description where that is given.

    Raises:
        TrackingError: the store knows the experiment as deleted.
    """
    stored = client.get_experiment_by_name(name)
    artifacts = output.resolve() / "mlartifacts"
    location = artifacts.as_uri() if needs_quotes(str(artifacts)) else str(artifacts)
    if stored is None:
        # A database says nothing about artifacts, and MLflow's default is the current folder.
        folder = location if is_database(uri) else None
        tags = experiment_tags(description)
        try:
            return str(client.create_experiment(name, artifact_location=folder, tags=tags))
        except store_errors():
            stored = client.get_experiment_by_name(name)
            if stored is None:  # and no other study has created it meanwhile
                raise
    if stored.lifecycle_stage != "active":
        shell_uri = shlex.quote(shown_uri(uri))
        raise TrackingError(
            f"the experiment {name!r} is deleted in {shown_uri(uri)}; bring it back with "
            f"`MLFLOW_TRACKING_URI={shell_uri} mlflow experiments restore --experiment-id "
            f"{stored.experiment_id}`, or remove it "
            f"for good with `mlflow gc --backend-store-uri {shell_uri}`"
        )
    old = stored.artifact_location
    made_here = uri == local_tracking_uri(output) and old.endswith("/mlartifacts")
    if made_here and old != location and old.startswith(("/", "file:")):
        _follow_artifacts(output / "mlflow.db", stored.experiment_id, old, location)
    for key, value in missing_tags(stored.tags, description).items():
        client.set_experiment_tag(stored.experiment_id, key, value)
    return str(stored.experiment_id)


def _follow_artifacts(database: Path, experiment_id: str, old: str, new: str) -> None:
    """Has a store that was copied or moved with its folder look for artifacts in that folder.

    MLflow keeps absolute paths and has no call that changes them, so its tables are written to. The
    folder that they named before may be another study's by now, and is not touched. Nor is what is
    said of files that lie there alone: an experiment that a study with another output folder has
    begun in this store keeps its place.
    """
    from mlflow.utils.file_utils import local_file_uri_to_path

    before, after = (Path(local_file_uri_to_path(place)) for place in (old, new))
    ours = "experiment_id = ? AND substr(artifact_uri, 1, ?) = ?"
    which = (int(experiment_id), len(old) + 1, f"{old}/")
    try:
        with closing(sqlite3.connect(database, timeout=_CONNECT_SECONDS)) as connection, connection:
            runs = [
                run
                for (run,) in connection.execute(f"SELECT run_uuid FROM runs WHERE {ours}", which)
            ]
            moved = [run for run in runs if (after / run).exists() or not (before / run).exists()]
            if not any((after / run).exists() for run in runs) and len(moved) < len(runs):
                return
            connection.execute(
                "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
                (new, int(experiment_id)),
            )
            connection.executemany(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) WHERE run_uuid = ?",
                [(new, len(old) + 1, run) for run in moved],
            )
    except sqlite3.Error as error:
        raise OSError(str(error)) from error


@contextmanager
def mlflow_settings(patience: Patience = "patient") -> Iterator[None]:
    """Keeps MLflow calls inside quiet and not cut short by Ctrl-C.

    Variables that the user has set keep their values; everything is put back afterwards.

    Args:
        patience: a request waits about ten seconds at most if brief, twenty for a running study,
            two minutes if patient.
    """
    with signals_held_back(), _environment({**_limits(patience), **_SILENT}), _quiet():
        yield


def store_errors() -> tuple[type[Exception], ...]:
    """Returns what a call to a store that is away, full or read-only raises.

    Artifacts may lie elsewhere, in a store that fails in ways of its own.
    """
    from mlflow.exceptions import MlflowException

    return (MlflowException, OSError)


def _connect_once(uri: str) -> None:
    """Opens the database a single time; MLflow itself would try ten times over 100 seconds."""
    import sqlalchemy

    path = sqlalchemy.make_url(uri).database
    if scheme(uri) == "sqlite" and path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if not path.startswith((":", "file:")):
            _create_whole(uri, Path(path))
    timeout = {"connect_timeout": _CONNECT_SECONDS}
    arguments = timeout if scheme(uri) in ("postgresql", "mysql") else {}
    engine = sqlalchemy.create_engine(uri, connect_args=arguments)
    try:
        sqlalchemy.inspect(engine).get_table_names()
    finally:
        engine.dispose()


def _create_whole(uri: str, path: Path) -> None:
    """Makes a file that is not there, with MLflow's tables, aside, and gives it its name.

    MLflow makes dozens of them, one after another, and cannot go on where a kill stopped it. Of
    studies that start together the first gives the file, which the others have open soon.
    """
    import sqlalchemy

    path = path.resolve()  # a link to a file that is not there has the name already
    if path.exists():
        if path.stat().st_size > 0:
            return
        path.unlink(missing_ok=True)  # nobody has taken it for a store so far
    with in_place_of(path, unless_there=True) as aside:
        aside.touch()  # where nothing can be written, MLflow would try for 100 seconds
        create_tables(str(sqlalchemy.make_url(uri).set(database=str(aside))))
    _forget(uri)


def _forget(uri: str) -> None:
    """Closes what MLflow holds open in this process of a file that had the name before."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    engine = getattr(SqlAlchemyStore, "_engine_map", {}).get(uri)
    if engine is not None:
        engine.dispose()


def create_tables(uri: str) -> None:
    """Creates MLflow's tables in the empty database at ``uri``."""
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(uri, DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH).engine.dispose()


def _limits(patience: Patience) -> dict[str, str]:
    seconds, retries = _PATIENCE[patience]
    return {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": seconds,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": retries,
        # A server or its proxy may ask for any pause, an hour too.
        "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    }


@contextmanager
def _environment(defaults: Mapping[str, str]) -> Iterator[None]:
    added = [name for name in defaults if name not in os.environ]
    os.environ.update({name: defaults[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Holds back the log of database creation, of urllib3's retries, and tracebacks of both.

    What goes wrong reaches the user as one exception instead.
    """
    loggers = [
        logging.getLogger(name)
        for name in ("mlflow.store.db.utils", "alembic", "urllib3.connectionpool")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # MLflow 3.17 declares its tables with an option that SQLAlchemy 2.1 deprecates.
            warnings.filterwarnings("ignore", ".*noload.*", DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

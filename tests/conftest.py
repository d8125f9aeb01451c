from __future__ import annotations

import contextlib
import gc
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.s3 import S3, serve_s3
from tests.support.scripts import handled_sigint

HERE = Path(__file__).parent
# `make test` hands files out in this order: the longest first, so that all processes end together.
LONGEST = (
    *("system", "studies", "hpo/cluster", "core/test_distributed.py"),
    *("hpo/run", "hpo/analyses/test_comparison.py", "hpo/bench/cost", "house/test_package.py"),
    *("hpo/search", "core/meta/engines/test_compiled.py", "core/training", "core/test_memory.py"),
    *("hpo/tracking", "hpo/study"),
)


def pytest_collection() -> None:
    """The tests alone are a million objects, which the collector would visit again and again."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        path = item.path.relative_to(HERE).as_posix()
        return next((i for i, name in enumerate(LONGEST) if path.startswith(name)), len(LONGEST))

    items.sort(key=rank)


@pytest.fixture(autouse=True, scope="session")
def _without_waiting_for_the_disk() -> Iterator[None]:
    """What is written is handed to the system and not waited for: no test pulls the plug."""
    connect = sqlite3.dbapi2.connect

    def connect_unsynchronized(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        with contextlib.suppress(sqlite3.Error):  # of a damaged file
            connection.execute("PRAGMA synchronous=OFF")
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(sqlite3.dbapi2, "connect", connect_unsynchronized)
        yield


@pytest.fixture(autouse=True, scope="session")
def _ray_waits_for_nobody() -> Iterator[None]:
    """Ray's workers, which it makes polite, are starved by tests beside them otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        yield


@pytest.fixture(autouse=True, scope="session")
def _code_is_compiled_anew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """By torch's inductor, once in a run, without what earlier runs left in its cache.

    Which vector instructions the C++ compiler knows takes inductor as long again to find out. Its
    answer stays with the process, so that it cannot be another in a single test.
    """
    root = tmp_path_factory.getbasetemp()
    shared = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(shared / "inductor"))
        patch.setenv("TORCHINDUCTOR_VEC_ISA_OK", "0")
        yield


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    pytest.importorskip("moto", reason="needs moto[s3] (pip install '.[dev]')")
    with serve_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """Returns the server, named and with credentials in the environment."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a database with MLflow's tables and nothing else."""
    from hpo.tracking.store import create_tables

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    create_tables(f"sqlite:///{path}")
    return path


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Python's own handler of SIGINT, here and in processes that the test starts."""
    with handled_sigint():
        yield


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies train here, one cell after another."""
    _train_here(monkeypatch)


@pytest.fixture(scope="module")
def without_ray_in_module() -> Iterator[None]:
    """Does the same for the fixtures of a module."""
    with pytest.MonkeyPatch.context() as patch:
        _train_here(patch)
        yield


@pytest.fixture
def nothing_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study's picture is an empty one: it takes longer than small trainings do."""
    from hpo.report.style import canvas

    monkeypatch.setattr("hpo.run.work.study_figure", lambda *_: canvas(1, 1))


def _train_here(patch: pytest.MonkeyPatch) -> None:
    from tests.support.in_process import run_here  # imports what most tests do without

    patch.setattr("hpo.cluster.runner.run_on_ray", run_here)

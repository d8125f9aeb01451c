"""mlflow/server.sh as a user starts it: whom it lets in, and what it leaves lying about."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from hpo.tracking.store import mlflow_settings
from mlflow import MlflowClient
from tests.support.processes import free_port, http_status, listening
from tests.support.scripts import ROOT

POSTGRESQL = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))

needs_auth = pytest.mark.skipif(
    find_spec("flask_wtf") is None, reason="needs mlflow[auth] (pip install '.[server]')"
)


def settings(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not below pytest's own, which another user, such as PostgreSQL's, may not enter."""
    path = Path(tempfile.mkdtemp(prefix="hm", dir="/tmp"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


class Server:
    """server.sh on a free port, until `end`."""

    def __init__(self, folder: Path, store: str):
        self.port = free_port()
        inherited = ("PATH", "HOME", "LANG", "PYTHONPATH")
        environment = {name: os.environ[name] for name in inherited if name in os.environ}
        environment |= {"PYTHON": sys.executable, "MLFLOW_PORT": f"{self.port}"}
        self.folder = folder
        self.log = folder.with_name(f"{folder.name}.log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                ["sh", str(ROOT / "mlflow/server.sh"), str(folder), store],
                env={**environment, "MLFLOW_WORKERS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def status(self, path: str, password: str | None = None, host: str | None = None) -> int:
        headers = {} if host is None else {"Host": host}
        if password is not None:
            pair = base64.b64encode(f"admin:{password}".encode()).decode()
            headers["Authorization"] = f"Basic {pair}"
        return http_status(f"http://127.0.0.1:{self.port}{path}", headers)

    def wait(self) -> None:
        for _ in range(1200):  # a busy machine takes minutes
            assert self.process.poll() is None, self.log.read_text()
            try:
                assert self.status("/health") == 200
                return
            except OSError:
                time.sleep(0.5)
        raise AssertionError(self.log.read_text())

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.log.unlink()


SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"


def lets_in_whom_it_knows(server: Server) -> None:
    # 127.0.0.1 and nothing else: no other address, no second port, no database's.
    assert listening(server.process.pid) == {f"0100007F:{server.port:04X}"}
    password = settings(server.folder / "client.env")["MLFLOW_TRACKING_PASSWORD"]
    assert server.status(SEARCH, password) == 200
    assert server.status(SEARCH) == 401
    assert server.status("/") == 401
    assert server.status(SEARCH, "password1234") == 401
    assert server.status(SEARCH, password, "evil.example") == 403
    assert server.status(SEARCH, password, f"localhost:{server.port}") == 200


@needs_auth
def test_requests_without_credentials_or_for_another_host_are_refused(folder: Path) -> None:
    server = Server(folder / "server", "sqlite")
    try:
        server.wait()
        lets_in_whom_it_knows(server)
        log = server.log.read_text()
        client = settings(folder / "server/client.env")
        saved_searches_are_understood(client)
    finally:
        server.end()
    assert client["MLFLOW_TRACKING_PASSWORD"] not in log
    for path in (folder / "server").rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def saved_searches_are_understood(client: dict[str, str]) -> None:
    """By the server, which is known from the environment alone, as a study knows it."""
    searches = yaml.safe_load((ROOT / "mlflow/searches.yaml").read_text())
    with pytest.MonkeyPatch.context() as patch, mlflow_settings():
        for name, value in client.items():
            patch.setenv(name, value)
        asking = MlflowClient()
        experiment = asking.create_experiment("table2")
        good = asking.create_run(experiment, tags={"kind": "summary", "dataset": "digits"})
        asking.create_run(experiment, tags={"kind": "cell", "dataset": "digits"})
        answers = [
            asking.search_runs([experiment], search["filter"], order_by=[search["order"]])
            for search in searches
        ]
    assert [run.info.run_id for run in answers[0]] == [good.info.run_id]


@needs_auth
@pytest.mark.skipif(not POSTGRESQL, reason="needs PostgreSQL (Debian: postgresql)")
@pytest.mark.skipif(find_spec("psycopg2") is None, reason="needs psycopg2 ('.[server]')")
def test_with_postgresql_it_opens_no_second_port_and_comes_back_with_what_it_knew(
    folder: Path,
) -> None:
    server = Server(folder / "server", "postgresql")
    try:
        server.wait()
        lets_in_whom_it_knows(server)
        first = settings(server.folder / "secrets.env")
        arguments = (server.folder / "postgresql/data/postmaster.opts").read_text()
        assert '"listen_addresses="' in arguments
    finally:
        server.end()
    assert not (server.folder / "postgresql/data/postmaster.pid").exists(), "its database ended too"
    again = Server(folder / "server", "postgresql")
    try:
        again.wait()
        assert settings(again.folder / "secrets.env") == first
        lets_in_whom_it_knows(again)
    finally:
        again.end()

"""A study whose tracking server, or the database behind it, goes away and comes back."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from hpo import complete_tracking
from hpo.run import UNUSABLE
from hpo.tracking import outbox, store
from hpo.tracking.tracker import check_tracking_uri
from tests.support.processes import free_port
from tests.support.stores import tracked_runs
from tests.system.faults.bench import Bench

POSTGRESQL = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
SECRET = "hunter2"


class Server:
    """`mlflow server`, in processes of its own."""

    def __init__(self, folder: Path, store: str):
        self._folder, self._store = folder, store
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://me:{SECRET}@127.0.0.1:{self._port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--backend-store-uri", self._store]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        command += ["--host", "127.0.0.1", "--port", str(self._port)]
        log = self._folder / "server.log"
        with open(log, "a") as file:
            self._process = subprocess.Popen(
                command, cwd=self._folder, stdout=file, stderr=file, start_new_session=True,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )  # fmt: skip
        deadline = time.monotonic() + 300
        while True:
            try:
                check_tracking_uri(self.uri)
                return
            except store.TrackingError:
                assert time.monotonic() < deadline, log.read_text()
                assert self._process.poll() is None, log.read_text()
                time.sleep(0.2)

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(60)
            self._process = None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "server"
    folder.mkdir()
    return folder


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a store does not take is tried again with the next epoch, and not waited for."""
    monkeypatch.setattr(outbox, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(outbox, "REST", 0.0)
    monkeypatch.setattr("hpo.tracking.tracker.FLUSH_SECONDS", 0.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # no growing pauses
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # of a slow machine


def ledgers(output: Path) -> list[Path]:
    return list(output.glob("mlflow-pending-*.json"))


@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_killed_and_restarted_misses_nothing(
    folder: Path,
    empty_store: Path,
    calm: Path,
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    database, out = folder / "mlflow.db", tmp_path / "out"
    shutil.copy(empty_store, database)
    server = Server(folder, f"sqlite:///{database}")
    server.start()
    try:

        def fault(epochs: int) -> None:
            if epochs == 2:
                server.kill()
            if epochs == 4:
                assert ledgers(out)
            if epochs == 8:
                server.start()

        assert bench.study(out, "--tracking-uri", server.uri, fault=fault) == 0
        bench.assert_as_calm(out, calm, server.uri)
        assert list((folder / "artifacts").rglob("faults.csv"))

        # Killed again, it stays away: what is missing is said, and sent by the command named.
        monkeypatch.setattr(outbox, "RETRY_SECONDS", 60.0)
        flags = ["--tracking-uri", server.uri, "--fresh"]
        assert bench.study(out, *flags, fault=bench.at(2, server.kill)) == UNUSABLE
        captured = capfd.readouterr()
        [last] = [line for line in captured.err.splitlines() if "faults: error" in line]
        actual = re.search(r"`python (-m hpo.complete_tracking .*?)`", last)
        assert actual is not None
        server.start()
        assert "***" in actual[1]
        command = actual[1].replace("***", SECRET).replace("'", "").split()
        assert complete_tracking.main(command[2:]) == 0
        completed = capfd.readouterr()
        bench.assert_as_calm(out, calm, server.uri)
        assert len(tracked_runs(server.uri)) == 2 * (1 + bench.cells + 2)
    finally:
        server.kill()
    texts = [*captured, *completed, caplog.text]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    texts += [path.read_bytes().decode("latin1") for path in files]
    assert not [text for text in texts if SECRET in text]


class PostgreSQL:
    """A database server of one's own, at a socket in a folder of its own."""

    def __init__(self, folder: Path):
        # It does not run as root.
        self._user = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
        self._folder = folder
        if self._user:
            shutil.chown(folder, **self._user)
        initdb = [POSTGRESQL[-1] / "initdb", "--pgdata", folder / "data", "--username", "mlflow"]
        initdb += ["--auth", "trust", "--no-sync", "--encoding", "UTF8", "--locale", "C"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **self._user)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"postgresql+psycopg2://mlflow@/postgres?host={self._folder}"

    def start(self) -> None:
        command = [POSTGRESQL[-1] / "postgres", "-D", self._folder / "data", "-k", self._folder]
        command += ["-c", "listen_addresses=", "-c", "fsync=off"]
        log = self._folder / "log"
        with open(log, "a") as file:
            self._process = subprocess.Popen(
                command, cwd=self._folder, stdout=file, stderr=file, **self._user
            )
        deadline = time.monotonic() + 300
        ready = [POSTGRESQL[-1] / "pg_isready", "--quiet", "--host", self._folder]
        while subprocess.run(ready, check=False).returncode != 0:
            assert time.monotonic() < deadline, log.read_text()
            assert self._process.poll() is None, log.read_text()
            time.sleep(0.1)

    def end(self, number: signal.Signals) -> None:
        """SIGINT: it drops all connections and ends; SIGQUIT: at once, and recovers at a start."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None


@pytest.fixture
def postgresql() -> Iterator[PostgreSQL]:
    # Not below pytest's own, which another user may not enter; and a socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = PostgreSQL(Path(folder))
        server.start()
        yield server
        server.end(signal.SIGQUIT)


@pytest.mark.usefixtures("impatient")
@pytest.mark.skipif(not POSTGRESQL, reason="needs PostgreSQL (Debian: postgresql)")
@pytest.mark.skipif(find_spec("psycopg2") is None, reason="needs psycopg2 ('.[server]')")
def test_a_database_that_is_restarted_misses_nothing(
    postgresql: PostgreSQL, folder: Path, calm: Path, bench: Bench, tmp_path: Path
) -> None:
    """Opened by the study itself, and behind a tracking server, which stays."""

    def fault(epochs: int) -> None:
        if epochs == 2:
            postgresql.end(signal.SIGINT)
        if epochs == 4:
            assert ledgers(out)
        if epochs == 5:
            postgresql.start()
        if epochs == 8:  # in between two requests
            postgresql.end(signal.SIGQUIT)
            postgresql.start()

    out = tmp_path / "itself"
    assert bench.study(out, "--tracking-uri", postgresql.uri, fault=fault) == 0
    bench.assert_as_calm(out, calm, postgresql.uri)
    server = Server(folder, postgresql.uri)
    server.start()
    try:
        out = tmp_path / "out"
        assert bench.study(out, "--tracking-uri", server.uri, fault=fault) == 0
        bench.assert_as_calm(out, calm, postgresql.uri)
    finally:
        server.kill()

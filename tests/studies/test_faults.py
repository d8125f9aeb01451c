"""Faults of every kind: the study that met them ends as a calm one, with one ended run a cell.

Most trainings run in this process, through the worker's own function and a stand-in for Tune's
report, so that a fault comes at a known epoch.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import pickle
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import hpo.ray_runner
from core import checkpoint, training
from core.config import PolicyConfig
from hpo import tracking_uri, tracking_writing, trainable
from hpo.cells import CellStore
from hpo.plan import StudyRow
from hpo.report import Row
from hpo.run import CRASHED, INTERRUPTED, UNUSABLE, run_study
from hpo.study import StudyRun
from hpo.tracking import check_tracking_uri, default_tracking_uri

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    StudyRow(Row("none", "None", "", "none"), PolicyConfig("none")),
    StudyRow(Row("beta-1", "Beta(1, 1)", "", "beta"), PolicyConfig("beta", alpha=1.0)),
]
FLAGS = ["--preset", "smoke", "--seeds", "2", "--epochs", "3"]
CELLS, EPOCHS = 4, 3
SECRET = "hunter2"

Fault = Callable[[int], None]


@pytest.fixture
def told_to_end() -> None:
    """In place of the one for all studies: here SIGTERM is sent by the tests."""


class Bench:
    """Runs the study here; `fault` is called after each epoch with the number of epochs so far."""

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self.epochs = 0

    def study(self, output: Path, *flags: str, fault: Fault | None = None) -> int:
        self.fault, self.epochs = fault, 0
        return run_study("faults", ROWS, "", [*FLAGS, *flags, "--output", str(output)])

    def run(
        self, run: StudyRun, sources: Any, demand: Any, *, storage: Any, device: str, **_: Any
    ) -> None:
        run.workers = 1
        while (cell := run.next()) is not None:

            def report(told: dict[str, Any], cell_id: str = cell.id) -> None:
                self.epochs += len(told["epochs"])
                run.report(cell_id, told["epochs"])
                if "ending" in told:
                    run.end(cell_id, **json.loads(told["ending"]))
                elif self.fault is not None:
                    self.fault(self.epochs)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(trainable.tune, "report", report)
                trainable.train_cell(
                    {"cell": cell.to_dict()},
                    sources=sources,
                    storage=storage,
                    device=device,
                    threads=1,
                )


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    bench = Bench()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hpo.ray_runner, "run_on_ray", bench.run)
        patch.setattr(trainable, "REPORT_SECONDS", 0.0)
        patch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
        patch.setattr(checkpoint.os, "fsync", lambda _: None)
        threads = torch.get_num_threads()
        yield bench
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("store")
    check_tracking_uri(default_tracking_uri(output))
    return output / "mlflow.db"


@pytest.fixture
def output(tmp_path: Path, empty_store: Path) -> Path:
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(empty_store, out / "mlflow.db")
    return out


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, bench: Bench, empty_store: Path) -> pd.DataFrame:
    """The table of a study that nothing disturbed."""
    out = tmp_path_factory.mktemp("calm")
    shutil.copy(empty_store, out / "mlflow.db")
    assert bench.study(out) == 0
    assert bench.epochs == CELLS * EPOCHS
    assert_tracked(out / "mlflow.db")
    return table(out)


def table(output: Path) -> pd.DataFrame:
    """The table without what a clock measured."""
    frame = pd.read_csv(output / "faults.csv")
    return frame.drop(columns=[name for name in frame if name.endswith("_seconds")])


def assert_tracked(database: Path, *, over: bool = True) -> None:
    """One run for each cell, study and method, in a terminal state; if over, with all it should."""
    with closing(sqlite3.connect(database)) as connection:
        runs = connection.execute(
            "SELECT run_uuid, name, status FROM runs WHERE lifecycle_stage = 'active'"
        ).fetchall()
        steps = connection.execute(
            "SELECT run_uuid, step FROM metrics WHERE key = 'train_loss'"
        ).fetchall()
    statuses = {name: status for _, name, status in runs}
    assert len(statuses) == len(runs), "duplicated runs"
    assert "RUNNING" not in statuses.values()
    if over:
        assert len(runs) == 1 + CELLS + len(ROWS)
        assert set(statuses.values()) == {"FINISHED"}
        names = {run_id: name for run_id, name, _ in runs}
        # The final value of a metric stands beside the last epoch's where it differs.
        epochs = {(names[run_id], step) for run_id, step in steps if run_id in names}
        assert Counter(Counter(name for name, _ in epochs).values()) == {EPOCHS: CELLS}


def assert_as_calm(output: Path, calm: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(table(output), calm)
    assert_tracked(output / "mlflow.db")
    assert not list(output.rglob("*.pt"))
    assert not list(output.glob("mlflow-pending*"))


def interrupt() -> None:
    raise KeyboardInterrupt


def at(epochs: int, act: Callable[[], None]) -> Fault:
    """Act after so many epochs of the study."""
    return lambda gone: act() if gone == epochs else None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("epochs", [1, 5])
def test_a_signal_ends_it_and_it_goes_on(
    number: signal.Signals,
    epochs: int,
    output: Path,
    calm: pd.DataFrame,
    bench: Bench,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert bench.study(output, fault=at(epochs, lambda: os.kill(os.getpid(), number))) == (
            INTERRUPTED
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert "run the same command again, without --fresh" in capsys.readouterr().err
    assert_tracked(output / "mlflow.db", over=False)
    assert bench.study(output) == 0
    assert bench.epochs <= CELLS * EPOCHS - (epochs // EPOCHS) * EPOCHS
    assert_as_calm(output, calm)


def test_a_checkpoint_that_was_cut_short_costs_an_epoch(
    output: Path, calm: pd.DataFrame, bench: Bench
) -> None:
    def cut() -> None:
        [newest] = output.glob("cells/*/checkpoint.pt")
        newest.write_bytes(newest.read_bytes()[:1000])
        assert newest.with_name("checkpoint.previous.pt").exists()
        raise KeyboardInterrupt

    assert bench.study(output, fault=at(2, cut)) == INTERRUPTED
    with pytest.warns(UserWarning, match=r"checkpoint\.pt cannot be read"):
        assert bench.study(output) == 0
    assert_as_calm(output, calm)


def test_a_disk_that_is_full_for_a_checkpoint_costs_a_cell_until_the_next_time(
    output: Path, calm: pd.DataFrame, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save
    calls = itertools.count(1)

    def full(state: Any, file: Any) -> None:
        if next(calls) == 5:  # the second epoch of the second cell
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(state, file)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.torch, "save", full)
        assert bench.study(output) == CRASHED
    assert len(list(output.glob("cells/*/result.json"))) == CELLS - 1
    assert_tracked(output / "mlflow.db", over=False)
    assert bench.study(output) == 0
    assert bench.epochs == EPOCHS  # those before its checkpoint told again, and those after it
    assert_as_calm(output, calm)


def test_a_second_study_on_the_folder_refuses_and_disturbs_nothing(
    output: Path, calm: pd.DataFrame, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    def second() -> None:
        assert run_study("faults", ROWS, "", [*FLAGS, "--output", str(output)]) == UNUSABLE
        assert f"another study (process {os.getpid()}) is running" in capsys.readouterr().err

    assert bench.study(output, fault=at(4, second)) == 0
    assert_as_calm(output, calm)


def test_a_clock_that_goes_back(
    output: Path, calm: pd.DataFrame, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = time.time_ns()
    gone = itertools.count()
    monkeypatch.setattr(time, "time_ns", lambda: start - 60_000_000_000 * next(gone))
    monkeypatch.setattr(time, "time", lambda: time.time_ns() / 1e9)
    assert bench.study(output, fault=at(5, interrupt)) == INTERRUPTED
    assert bench.study(output) == 0
    monkeypatch.undo()
    assert_as_calm(output, calm)
    frame = table(output)
    with closing(sqlite3.connect(output / "mlflow.db")) as connection:
        shown = connection.execute(
            "SELECT r.name, m.value FROM latest_metrics m JOIN runs r USING (run_uuid) "
            "WHERE m.key = 'mean_error'"
        ).fetchall()
        backwards = connection.execute("SELECT name FROM runs WHERE end_time < start_time")
        assert backwards.fetchall() == []
    expected = {
        f"summary {m} digits": e for m, e in zip(frame.method, frame.mean_error, strict=True)
    }
    assert dict(shown) == pytest.approx(expected)


class Hostile:
    """Unpickled, it leaves a file."""

    def __init__(self, mark: Path):
        self._mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._mark),)


def test_nothing_in_a_strangers_folder_is_run(
    output: Path, calm: pd.DataFrame, bench: Bench, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    hostile = pickle.dumps(Hostile(mark), protocol=2)  # of others torch says that it may not work
    torch.save({"config": Hostile(mark)}, tmp_path / "hostile.pt")

    def plant() -> None:
        [newest] = output.glob("cells/*/checkpoint.pt")
        shutil.copy(tmp_path / "hostile.pt", newest)
        newest.with_name("checkpoint.previous.pt").write_bytes(hostile)
        raise KeyboardInterrupt

    assert bench.study(output, fault=at(2, plant)) == INTERRUPTED
    scratch = output / ".ray-stranger" / "faults"
    scratch.mkdir(parents=True)
    for name in ("tuner.pkl", "trainable.pkl", "searcher-state-1.pkl", "experiment_state-1.json"):
        (scratch / name).write_bytes(hostile)
    (output / "mlflow-pending.jsonl").write_bytes(hostile)
    with pytest.warns(UserWarning, match="cannot be read"):
        assert bench.study(output) == 0
    assert not mark.exists()
    assert_as_calm(output, calm)
    with pytest.raises(pickle.UnpicklingError):  # and it would have, in other hands
        torch.load(tmp_path / "hostile.pt", weights_only=True)
    pickle.loads(hostile)
    assert mark.exists()


# A tracking server


class Server:
    """`mlflow server` on SQLite, in processes of its own."""

    def __init__(self, folder: Path, store: Path):
        self.database = folder / "mlflow.db"
        self._folder = folder
        shutil.copy(store, self.database)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://me:{SECRET}@127.0.0.1:{self._port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.database}"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        command += ["--host", "127.0.0.1", "--port", str(self._port)]
        with open(self._folder / "server.log", "a") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 300
        while True:
            try:
                check_tracking_uri(self.uri)
                return
            except tracking_uri.TrackingError:
                assert time.monotonic() < deadline, (self._folder / "server.log").read_text()
                assert self._process.poll() is None, (self._folder / "server.log").read_text()
                time.sleep(0.5)

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(60)
            self._process = None


@pytest.fixture
def server(tmp_path: Path, empty_store: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    server = Server(folder, empty_store)
    server.start()
    yield server
    server.kill()


def test_a_server_that_is_killed_and_restarted_misses_nothing(
    server: Server,
    calm: pd.DataFrame,
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tracking_writing, "_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(tracking_writing, "_REST", 0.0)
    monkeypatch.setattr("hpo.tracking._FLUSH_SECONDS", 0.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # no growing pauses
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # of a slow machine
    out = tmp_path / "out"

    def fault(epochs: int) -> None:
        if epochs == 2:
            server.kill()
        if epochs == 4:
            assert list(out.glob("mlflow-pending-*.jsonl"))
        if epochs == 8:
            server.start()

    assert bench.study(out, "--tracking-uri", server.uri, fault=fault) == 0
    pd.testing.assert_frame_equal(table(out), calm)
    assert_tracked(server.database)
    assert not list(out.glob("mlflow-pending*"))
    assert list((tmp_path / "server" / "artifacts").rglob("faults.csv"))

    # Killed again, it stays away: what is missing is said, and sent by the command that is named.
    monkeypatch.setattr(tracking_writing, "_RETRY_SECONDS", 60.0)
    assert bench.study(out, "--tracking-uri", server.uri, "--fresh", fault=at(2, server.kill)) == (
        UNUSABLE
    )
    captured = capfd.readouterr()
    [last] = [line for line in captured.err.splitlines() if "faults: error" in line]
    found = re.search(r"`python (-m hpo.complete_tracking .*)`", last)
    assert found is not None
    server.start()
    assert "***" in found[1]
    command = found[1].replace("***", SECRET).replace("'", "").split()
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(table(out), calm)
    with closing(sqlite3.connect(server.database)) as connection:
        ended = connection.execute(
            "SELECT name, count(*), count(DISTINCT status), min(status) FROM runs "
            "WHERE lifecycle_stage = 'active' GROUP BY name"
        ).fetchall()
    assert len(ended) == 1 + CELLS + len(ROWS)
    # One of each invocation, as --fresh makes it another study.
    assert {tuple(row[1:]) for row in ended} == {(2, 1, "FINISHED")}

    texts = [captured.out, captured.err, caplog.text, done.stdout, done.stderr]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    texts += [path.read_bytes().decode("latin1") for path in files]
    assert not [text for text in texts if SECRET in text]


# Ray's own processes


def test_a_worker_that_is_killed_is_replaced(tmp_path: Path, empty_store: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(empty_store, out / "mlflow.db")
    flags = ["--preset", "smoke", "--seeds", "2", "--rows", "none,beta-1", "--epochs", "40"]
    command = [sys.executable, str(ROOT / "studies" / "table2.py"), *flags, "--workers", "1"]
    with subprocess.Popen(
        [*command, "--output", str(out)],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "RAY_worker_niceness": "0"},
    ) as driver:  # fmt: skip
        killed = 0
        while driver.poll() is None and killed == 0:
            if list(out.glob("cells/*/result.json")):
                for process in descendants(driver.pid):
                    if command_of(process).startswith("ray::ImplicitFunc"):  # the trainable
                        os.kill(process, signal.SIGKILL)
                        killed += 1
            time.sleep(0.05)
        _, stderr = driver.communicate(timeout=300)
    assert killed > 0
    assert driver.returncode == 0, stderr
    records = CellStore(out).records()
    assert len(records) == 4
    for record in records:  # as if trained alone and in peace
        again = trainable.train(record.cell, threads=1)
        assert again["test_error"] == record.result["test_error"]
        assert again["train_loss"] == record.result["train_loss"]
    with closing(sqlite3.connect(out / "mlflow.db")) as connection:
        runs = connection.execute("SELECT name, status, lifecycle_stage FROM runs").fetchall()
    assert len({name for name, *_ in runs}) == len(runs) == 1 + 4 + 2
    assert {status for _, status, _ in runs} == {"FINISHED"}


def command_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().decode()
    except OSError:  # it has ended
        return ""


def descendants(process: int) -> list[int]:
    """All processes that it started, and those that they started."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = [process]
    for one in found:
        found += children.get(one, [])
    return found[1:]


def listening(process: int) -> set[str]:
    """The addresses, as the kernel writes them, at which it waits for connections."""
    found = set()
    with suppress(OSError):
        sockets = {os.readlink(path) for path in Path(f"/proc/{process}/fd").iterdir()}
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == "0A" and f"socket:[{columns[9]}]" in sockets:
                    found.add(columns[1])
    return found


HOLD = """
from hpo.ray_session import Demand, session
with session(Demand(None, 1, 1, 0.0, 0)):
    import ray
    print(ray.get(ray.remote(lambda: "ready").remote()), flush=True)
    input()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_cluster_started_here_is_not_to_be_reached_from_elsewhere() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as driver:  # fmt: skip
        assert driver.stdout is not None
        assert driver.stdout.readline() == "ready\n"
        found = set().union(*map(listening, [driver.pid, *descendants(driver.pid)]))
        driver.communicate("\n", timeout=120)
    assert driver.returncode == 0
    assert len(found) >= 3
    hosts = {address.rpartition(":")[0] for address in found}
    # 127.0.0.1, as such and in IPv6, and ::1
    ours = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert hosts <= ours

"""How many cells run at a time where nobody says so, and what is said where there is no Ray."""

from __future__ import annotations

import os
import signal
import socket
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import ray

from hpo.cluster.address import find_cluster
from hpo.cluster.session import Demand, default_workers, room, session
from hpo.study.study_run import StudyError


@pytest.mark.parametrize(
    ("cpus", "threads", "workers"), [(8, 1, 8), (8, 3, 2), (2, 4, 1), (1, 1, 1)]
)
def test_one_worker_for_each_cpu_this_process_may_use(
    monkeypatch: pytest.MonkeyPatch, cpus: int, threads: int, workers: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert default_workers(threads) == workers
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
    assert default_workers(threads) == workers


def test_a_start_that_takes_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises a bare Exception, with its handler of SIGTERM already in place."""
    before = signal.getsignal(signal.SIGTERM)

    def init(**options: Any) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    with (
        pytest.raises(StudyError, match=r"did not start: The current node timed out .* overloaded"),
        session(Demand(None, 1, 1, 0.0, 0)),
    ):
        pass
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_ray_that_the_caller_runs_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second `ray.init` would raise, and `ray.shutdown` would take the caller's objects."""

    def refused(**options: Any) -> None:
        raise AssertionError("not the study's")

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "init", refused)
    monkeypatch.setattr(ray, "shutdown", refused)
    with (
        pytest.raises(StudyError, match=r"already.*call ray\.shutdown\(\) before.*workers=0"),
        session(Demand(None, 1, 1, 0.0, 0)),
    ):
        pass


def test_a_cell_that_fits_on_no_node_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    resources: list[dict[str, float]] = [{"CPU": 4.0, "GPU": 2.0}, {"CPU": 8.0}]
    nodes = [{"Alive": True, "Resources": given} for given in resources]
    nodes += [{"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert room(Demand(None, 1, threads=2, gpus=0, data_bytes=0)) == 6
    assert room(Demand(None, 1, threads=1, gpus=0.5, data_bytes=0)) == 4
    assert room(Demand(None, 1, threads=1, gpus=None, data_bytes=0)) == 2
    with pytest.raises(
        StudyError, match=r"1 CPU, 3 GPU, and no.*most 8 CPU, 2 GPU.*--gpus-per-cell"
    ):
        room(Demand(None, 1, threads=1, gpus=3, data_bytes=0))


def test_addresses_that_cannot_work_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:9: no Ray.*start --head.*--address"):
        find_cluster("127.0.0.1:9")
    with pytest.raises(ConnectionError, match="nowhere"):
        find_cluster("nowhere")
    with pytest.raises(ValueError, match="ray job submit"):
        find_cluster("ray://127.0.0.1:10001")
    for address in (None, "auto"):
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
        with pytest.raises(ConnectionError, match=r"^RAY_ADDRESS=127\.0\.0\.1:9: .*unset RAY"):
            find_cluster(address)
        monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
        with pytest.raises(ValueError, match=r"^RAY_ADDRESS=http.*http:// is for `ray job submit`"):
            find_cluster(address)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    find_cluster(None)


@pytest.mark.parametrize("answer", [b"SSH-2.0-x\r\n", b"HTTP/1.1 400 Bad\r\n", b""])
def test_what_listens_and_is_no_ray_is_not_waited_for(answer: bytes) -> None:
    with socket.create_server(("", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(64)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        with pytest.raises(ConnectionError, match=f":{port}: (what answers|no Ray cluster)"):
            find_cluster(f"127.0.0.1:{port}")
        thread.join()


def test_a_session_asks_before_ray_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    demand = Demand(address=None, workers=1, threads=1, gpus=0, data_bytes=0)
    with pytest.raises(StudyError, match="RAY_ADDRESS=127"), session(demand):
        pass


def test_a_ray_that_does_not_start_is_started_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ValueError, of data that no memory holds, is no cluster that is there already."""
    calls = []

    def init(**options: Any) -> None:
        calls.append(options)
        raise ValueError("After taking into account object store memory, too little is left")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    for address in (None, "local"):
        demand = Demand(address, workers=1, threads=1, gpus=0, data_bytes=0)
        with pytest.raises(StudyError, match="Ray did not start: After taking"), session(demand):
            pass
    assert [options["num_cpus"] for options in calls] == [1, 1]


def test_without_a_home_folder_ray_has_its_token_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nowhere(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nowhere)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")  # put back afterwards
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    import_module("hpo.cluster.session")._give_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64

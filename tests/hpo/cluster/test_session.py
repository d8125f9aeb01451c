"""How many cells run at a time where nobody says so, and what is said where Ray does not start."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import ray

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

"""How many cells run at a time where nobody says so."""

from __future__ import annotations

import os

import pytest

from hpo.ray_session import default_workers


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

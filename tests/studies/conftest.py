from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import hpo.cluster.runner
from hpo.cluster.trainable import environment, train
from hpo.study.plan import source_key
from hpo.study.study_run import StudyRun
from hpo.tracking import signals


@pytest.fixture(autouse=True)
def told_to_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """SIGTERM from outside ends the session of tests, as it does where no study runs.

    `timeout` and `kill -- -GROUP` send it to every process of a group. A study that runs in this
    one takes it for its own interrupt and ends with status 130: its test would fail as if the
    study were at fault, and the session would go on.
    """
    came: list[int] = []

    def noted(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise SystemExit(128 + number)

    monkeypatch.setattr(signals, "_exit", noted)
    yield
    if came:
        name = signal.Signals(came[0]).name
        pytest.exit(f"{name} came from outside; the last failure is its doing", 128 + came[0])


def run_here(
    run: StudyRun, sources: Any, demand: Any, *, output: Path, device: str, **_: Any
) -> None:
    """In place of `run_on_ray`: one cell after another, in this process."""
    run.workers = 1
    while (cell := run.next()) is not None:
        result = train(cell, source=sources[source_key(cell.training)], device=device)
        if not run.report(cell.id, result["history"]):
            run.end(cell.id, "finished", result, None, environment(device, 1))


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies train here, one cell after another: Ray takes longer to start than they to train."""
    monkeypatch.setattr(hpo.cluster.runner, "run_on_ray", run_here)


@pytest.fixture(scope="module")
def without_ray_in_module() -> Iterator[None]:
    """The same for the fixtures of a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hpo.cluster.runner, "run_on_ray", run_here)
        yield

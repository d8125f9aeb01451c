from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType

import pytest

from hpo.tracking import signals
from tests.support.stores import copied_stores

__all__ = ["copied_stores"]


@pytest.fixture(autouse=True)
def _without_ray(without_ray: None) -> None:
    """A study that is called trains here; one that is run as a script is a process and has Ray."""


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

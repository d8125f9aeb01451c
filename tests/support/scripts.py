"""Studies as a user runs them: a process with flags, its messages, its exit status."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def handled_sigint() -> Iterator[None]:
    """Has Python's own handler of SIGINT, here and in processes that are started.

    A job that a shell started in the background ignores SIGINT, and so would all its children.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def kill_when(ready: Callable[[], bool], study: str, *arguments: str | Path, cwd: Path) -> str:
    """Kills a running study's process once `ready`; its workers are Ray's to end.

    Returns:
        What it had written to standard error.
    """
    driver = _running(ready, study, *arguments, cwd=cwd)
    driver.kill()
    _, stderr = driver.communicate()
    assert driver.returncode == -signal.SIGKILL, stderr
    return stderr


def interrupt_when(
    ready: Callable[[], bool], study: str, *arguments: str | Path, cwd: Path
) -> None:
    """Presses Ctrl-C in a running study once `ready`: it ends as one that can go on."""
    driver = _running(ready, study, *arguments, cwd=cwd)
    driver.send_signal(signal.SIGINT)
    _, stderr = driver.communicate(timeout=120)
    assert driver.returncode == 130, stderr
    assert "run the same command again, without --fresh, to go on" in stderr
    assert "Traceback" not in stderr


def _running(
    ready: Callable[[], bool], study: str, *arguments: str | Path, cwd: Path
) -> subprocess.Popen[str]:
    with handled_sigint():
        driver = subprocess.Popen(
            _command(study, *arguments),
            cwd=cwd,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    while driver.poll() is None and not ready():
        time.sleep(0.02)
    return driver


def _command(study: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, str(ROOT / "studies" / f"{study}.py"), *map(str, arguments)]

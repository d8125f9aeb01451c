from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


def processes(home: Path) -> list[int]:
    """Returns all that run with this home folder in their environment, but for this process."""
    running = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"RAY_TMPDIR={home}".encode() in environment:
            running.append(int(folder.name))
    return running


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """Yields a home folder of a short name, as Ray's sockets lie below it; all that ran there is
    ended."""
    folder = Path(tempfile.mkdtemp(prefix="hm", dir="/tmp"))
    try:
        yield folder
    finally:
        for _ in range(50):
            running = processes(folder)
            for pid in running:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if not running:
                break
            time.sleep(0.1)
        shutil.rmtree(folder, ignore_errors=True)

"""The output folder of a study: writable, locked while one runs, with a lasting identity."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpo.cells import write_atomically


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Create the folder, check that it can be written to, and hold it for this process.

    The lock goes with the process, however that ends.

    Raises:
        OSError: it cannot be created or written to.
        BlockingIOError: another study is running on it.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        file = open(output / ".lock", "a+")  # noqa: SIM115, held open by the lock below
    except OSError as error:
        raise OSError(
            f"cannot write to the output folder {output}: {error.strerror}; choose another --output"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise BlockingIOError(
                f"another study (process {file.read().strip() or 'unknown'}) is running on "
                f"{output}; wait for it or choose another --output"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        for left in output.glob(".ray-*"):  # of a study that was killed
            shutil.rmtree(left, ignore_errors=True)
        yield


def study_id(output: Path, study: str, *, fresh: bool = False) -> str:
    """The identity under which a study on this folder is tracked; a new one if fresh.

    Raises:
        ValueError: the file that keeps identities is damaged.
    """
    path = output / "studies.json"
    try:
        known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise ValueError(
            f"{path} is not readable ({error}); delete it: the study is then tracked as a new one"
        ) from error
    if fresh or study not in known:
        known[study] = uuid.uuid4().hex
        write_atomically(path, json.dumps(known, indent=1))
    return known[study]


def set_aside(output: Path) -> Path | None:
    """Move finished cells away under a dated name, so that all are trained again."""
    cells = output / "cells"
    if not cells.exists():
        return None
    name = time.strftime("cells.before-%Y%m%d-%H%M%S")
    aside = output / name
    for number in itertools.count(2):  # twice in a second, or the clock went back
        if not aside.exists():
            break
        aside = output / f"{name}-{number}"
    cells.rename(aside)
    return aside

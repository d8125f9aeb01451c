"""The output folder of a study: writable, locked while one runs; and what belongs to the study's
cells, wherever they are: its lasting identity, and room for others."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hpo.storage.atomic import sweep
from hpo.storage.folder import FolderStorage
from hpo.storage.lease import leased
from hpo.storage.places import checked, storage_of
from hpo.storage.protocol import Storage


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
        with suppress(OSError):  # on a full disk it cannot be told whose the lock is
            os.truncate(file.fileno(), 0)
            os.write(file.fileno(), str(os.getpid()).encode())
        sweep(output)
        for left in output.glob(".ray-*"):  # of a study that was killed
            shutil.rmtree(left, ignore_errors=True)
        yield


@contextmanager
def held(output: Path, storage: Storage) -> Iterator[None]:
    """Hold the cells' storage as well, where it is not the output folder, and see that it works.

    Raises:
        OSError: it cannot be used.
        BlockingIOError: another study is running on it.
    """
    if not isinstance(storage, FolderStorage):
        with checked(storage), leased(storage):
            yield
    elif storage.root == output:
        yield
    else:
        with locked(storage.root), checked(storage):
            yield


def study_id(place: Path | Storage, study: str, *, fresh: bool = False) -> str:
    """The identity under which a study with its cells there is tracked; a new one if fresh.

    Raises:
        ValueError: the file that keeps identities is damaged.
    """
    storage, name = storage_of(place), "studies.json"
    known: dict[str, str] = {}
    try:
        known = json.loads(storage.read(name))
    except FileNotFoundError:
        pass
    except ValueError as error:
        raise ValueError(
            f"{storage.uri}/{name} is not readable ({error}); delete it: the study is then tracked "
            "as a new one"
        ) from error
    if fresh or study not in known:
        known[study] = uuid.uuid4().hex
        storage.write(name, json.dumps(known, indent=1).encode())
    return known[study]


def set_aside(place: Path | Storage) -> str | None:
    """Move finished cells away under a dated name, so that all are trained again; the name."""
    storage = storage_of(place)
    if not storage.files("cells"):
        return None
    name = time.strftime("cells.before-%Y%m%d-%H%M%S")
    aside = name
    for number in itertools.count(2):  # twice in a second, or the clock went back
        if not storage.files(aside):
            break
        aside = f"{name}-{number}"
    storage.rename("cells", aside)
    return aside

"""The output folder of a study: writable, locked while one runs; and what belongs to the study's
cells, wherever they are: its lasting identity, and room for others."""

from __future__ import annotations

import errno
import itertools
import json
import os
import platform
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from hpo.storage.atomic import sweep
from hpo.storage.folder import FolderStorage
from hpo.storage.places import checked, storage_of
from hpo.storage.protocol import Storage

_HOLDER = "lock.json"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Creates the folder, checks that it can be written to, and holds it for this process.

    The lock goes with the process, however that ends.

    Raises:
        OSError: the folder cannot be created, written to or locked.
        BlockingIOError: another study is running on it.
    """
    with _held_alone(output, ".lock", "another study"):
        sweep(output)
        for scratch in output.glob(".ray-*"):  # of a study that was killed
            shutil.rmtree(scratch, ignore_errors=True)
        yield


@contextmanager
def reserved(output: Path, command: str) -> Iterator[None]:
    """Holds the folder against this command a second time; its studies lock the folder in turn.

    Raises:
        OSError: the folder cannot be created, written to or locked.
        BlockingIOError: the command is running on it.
    """
    with _held_alone(output, f".{command}.lock", f"another {command}"):
        yield


@contextmanager
def _held_alone(output: Path, name: str, other: str) -> Iterator[None]:
    """Creates the folder and holds a lock in it, which the error of another's says is `other`'s."""
    path = output / name
    lock = FileLock(path, blocking=False, fallback_to_soft=False)  # a kill leaves a soft one
    try:
        output.mkdir(parents=True, exist_ok=True)
        hold = lock.acquire()
    except Timeout as error:
        if not path.exists():  # nobody holds it
            raise OSError(
                f"cannot write to the output folder {output}: it takes no files; choose another "
                "output folder"
            ) from error
        process = ""
        with suppress(OSError):  # Windows does not let it be read
            process = path.read_text().strip()
        raise BlockingIOError(
            f"{other} (process {process or 'unknown'}) is running on {output}; wait for it "
            "or choose another output folder"
        ) from error
    except OSError as error:
        verb = "lock" if error.errno in _NO_LOCKS else "write to"
        raise OSError(
            f"cannot {verb} the output folder {output}: {error.strerror}; choose another "
            "output folder"
        ) from error
    with hold:
        with suppress(OSError):  # on a full disk it cannot be told whose the lock is
            path.write_text(str(os.getpid()))
        yield


@contextmanager
def held(output: Path, storage: Storage) -> Iterator[None]:
    """Holds the cells' storage as well, where it is not the output folder, and sees that it works.

    A bucket cannot be locked: another study that seems to run there is told of on standard error.
    Two at a time harm no result, since both write whole files of the same trainings.

    Raises:
        OSError: it cannot be used.
        BlockingIOError: another study is running on it, and it is a folder.
    """
    if not isinstance(storage, FolderStorage):
        with checked(storage):
            pass
        with _announced(storage):
            yield
    elif storage.root.resolve() == output.resolve():
        yield
    else:
        with locked(storage.root):
            with checked(storage):
                pass
            yield


@contextmanager
def _announced(storage: Storage) -> Iterator[None]:
    try:
        holder = json.loads(storage.read(_HOLDER))
        other = f"process {holder['process']} on {holder['host']}"
    except FileNotFoundError:
        other = ""
    except (ValueError, TypeError, KeyError):
        other = "unknown"
    if other:
        print(
            f"warning: another study ({other}) is running on {storage.uri}, or was killed there; "
            "two at a time harm no result, but train everything twice",
            file=sys.stderr,
        )
    holder = {"process": os.getpid(), "host": platform.node()}
    storage.write(_HOLDER, json.dumps(holder).encode())
    try:
        yield
    finally:
        with suppress(OSError):  # then the next one is warned of this one
            storage.delete(_HOLDER)


def study_id(place: Path | Storage, study: str, *, fresh: bool = False) -> str:
    """Returns the identity under which a study with its cells there is tracked; new if fresh.

    Raises:
        ValueError: the file that keeps identities is damaged.
    """
    storage, name = storage_of(place), "studies.json"
    known: dict[str, str] = {}
    try:
        known = dict(**json.loads(storage.read(name)))
    except FileNotFoundError:
        pass
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{storage.uri}/{name} is not readable ({error}); delete it: the study is then tracked "
            "as a new one"
        ) from error
    if fresh or study not in known:
        known[study] = uuid.uuid4().hex
        storage.write(name, json.dumps(known, indent=1).encode())
    return known[study]


def set_aside(place: Path | Storage) -> str | None:
    """Moves finished cells away, so that all are trained again; returns their new name, a date."""
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

"""Hold a storage whose files cannot be locked, for one study at a time."""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from hpo.storage.protocol import Storage

BEAT = 10.0
"""Seconds between two signs of life of the holder."""

PATIENCE = 3 * BEAT
"""Without one for so long it is dead. No clocks of different machines are compared."""

SETTLE = 1.0
"""Of two that start at once, the one whose name stands there after so long is the holder."""

_NAME = "lock.json"


@contextmanager
def leased(storage: Storage) -> Iterator[None]:
    """Hold the storage for this process, with signs of life from a thread of its own.

    Where a study died without a word (its lock is there, and nobody renews it) this waits until
    that is clear. A holder that stood still for longer than `PATIENCE` loses it unawares: both then
    write, whole files each, of the same trainings.

    Raises:
        BlockingIOError: another study is running there.
        OSError: the storage cannot be used.
    """
    name = {"process": os.getpid(), "host": platform.node(), "token": uuid.uuid4().hex}
    _wait_until_free(storage)
    _sign(storage, name, 0)
    time.sleep(SETTLE)
    _refuse_other(storage, name)
    over = threading.Event()
    thread = threading.Thread(target=_keep_signing, args=(storage, name, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with suppress(OSError):  # then the next one has to wait
            storage.delete(_NAME)


def _wait_until_free(storage: Storage) -> None:
    found = _read(storage)
    if found is None:
        return
    print(
        f"{storage.uri} is held by {_holder(storage, found)}; waiting {PATIENCE:g} s to see "
        "whether that lives",
        file=sys.stderr,
    )
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        time.sleep(min(BEAT, PATIENCE) / 4)
        now = _read(storage)
        if now is None:
            return
        if now != found:
            raise BlockingIOError(_taken(storage, now))


def _refuse_other(storage: Storage, name: dict[str, object]) -> None:
    found = _read(storage)
    if found is not None and str(name["token"]).encode() not in found:
        raise BlockingIOError(_taken(storage, found))


def _taken(storage: Storage, found: bytes) -> str:
    return (
        f"another study ({_holder(storage, found)}) is running on {storage.uri}; wait for it or "
        "choose another --storage"
    )


def _holder(storage: Storage, found: bytes) -> str:
    try:
        holder = json.loads(found)
        return f"process {holder['process']} on {holder['host']}"
    except (ValueError, TypeError, KeyError) as error:
        raise BlockingIOError(
            f"{storage.uri}/{_NAME} is no lock of a study; delete it if none is running there"
        ) from error


def _keep_signing(storage: Storage, name: dict[str, object], over: threading.Event) -> None:
    beat = 0
    while not over.wait(BEAT):
        beat += 1
        with suppress(OSError):  # the study itself will stumble over it
            _sign(storage, name, beat)


def _sign(storage: Storage, name: dict[str, object], beat: int) -> None:
    storage.write(_NAME, json.dumps({**name, "beat": beat}).encode())


def _read(storage: Storage) -> bytes | None:
    try:
        return storage.read(_NAME)
    except FileNotFoundError:
        return None

"""Writes a file whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from core.lazy import pandas as pd

_ASIDE = re.compile(r"\..+\.(csv|db|html|json|md|png)\.\d+(-journal)?")


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all: aside, synced, renamed.

    Raises:
        OSError: it cannot be written; the error names `path`.
    """
    with in_place_of(path) as aside, open(aside, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def in_place_of(path: Path, *, unless_there: bool = False) -> Iterator[Path]:
    """Yields a file to write in the block; after it, it takes the place of `path`.

    Args:
        path: of the file.
        unless_there: one that another process has put there meanwhile stays, and ours is dropped.

    Raises:
        OSError: it cannot be written; the error names `path`, where the system names nothing or
            the file aside.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        if not (unless_there and _put_first(aside, path)):
            os.replace(aside, path)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        aside.unlink(missing_ok=True)


def _put_first(aside: Path, path: Path) -> bool:
    """Gives a file a second name, and returns whether anything has that name now.

    Nothing has it where the file system knows no second names.
    """
    with suppress(OSError):
        os.link(aside, path)
    return path.exists()


def sweep(directory: Path) -> None:
    """Removes what `in_place_of` left aside in the directory when its process was killed."""
    for path in directory.glob(".*.[0-9]*"):
        if _ASIDE.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file whole or not at all; see `write_bytes_atomically`."""
    write_bytes_atomically(path, text.encode())


def write_csv(path: Path, frame: pd.DataFrame, float_format: str | None = None) -> Path:
    """Writes a table whole or not at all, makes its folder if need be, and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(
        path, frame.to_csv(index=False, lineterminator="\n", float_format=float_format)
    )
    return path

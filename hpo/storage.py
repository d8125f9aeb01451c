"""Where a study's cells live: a folder, perhaps one that machines share, or a prefix of a bucket.

Results and checkpoints go there, and the identity under which the study is tracked: who has the
place can go on with the study, on whatever machine.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from core.training.checkpoint import remove_checkpoints

_ASIDE = re.compile(r"\..+\.(csv|db|html|json|jsonl|md|png)\.\d+(-journal)?")

Keep = Callable[[], None]
"""To be called after an epoch: a checkpoint that was written is brought to safety."""


class Storage(Protocol):
    """Files under names such as "cells/ID/result.json", each written whole or not at all.

    What fails raises OSError, a file that is not there FileNotFoundError.
    """

    @property
    def uri(self) -> str:
        """How a user would name the place."""

    @property
    def relative(self) -> bool:
        """Whether the name depends on where the study was started."""

    def read(self, name: str) -> bytes:
        """The content of a file."""

    def write(self, name: str, content: bytes) -> None:
        """Replace a file; a kill leaves the old one or the new one."""

    def delete(self, name: str) -> None:
        """Delete a file, if it is there, and with its last file a folder."""

    def files(self, folder: str) -> list[str]:
        """The names of all files below a folder, sorted; none where there is no such folder."""

    def rename(self, folder: str, new: str) -> None:
        """Give a folder another name."""

    def checkpoints(self, folder: str) -> AbstractContextManager[tuple[Path, Keep]]:
        """The directory of this machine where a training finds and leaves the folder's
        checkpoints, and what brings them from there into the storage."""

    def remove_checkpoints(self, folders: Iterable[str]) -> None:
        """Delete the checkpoints of these folders, whole or partial."""


@dataclass(frozen=True)
class FolderStorage:
    """A folder that this machine has or mounts; see `Storage`.

    Attributes:
        root: its absolute path.
        relative: the user named it by a path that depends on where the study was started.
    """

    root: Path
    relative: bool = False

    @property
    def uri(self) -> str:
        """Its path."""
        return str(self.root)

    def read(self, name: str) -> bytes:
        """See `Storage`."""
        return (self.root / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """See `Storage`."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(path, content)

    def delete(self, name: str) -> None:
        """See `Storage`."""
        path = self.root / name
        path.unlink(missing_ok=True)
        if path.parent != self.root:
            with suppress(OSError):  # others are in it
                path.parent.rmdir()

    def files(self, folder: str) -> list[str]:
        """See `Storage`."""
        found = (self.root / folder).rglob("*")
        return sorted(path.relative_to(self.root).as_posix() for path in found if path.is_file())

    def rename(self, folder: str, new: str) -> None:
        """See `Storage`."""
        (self.root / folder).rename(self.root / new)

    @contextmanager
    def checkpoints(self, folder: str) -> Iterator[tuple[Path, Keep]]:
        """See `Storage`: the folder itself, where they are safe as soon as they are written."""
        yield self.root / folder, lambda: None

    def remove_checkpoints(self, folders: Iterable[str]) -> None:
        """See `Storage`; and what a result was being written to when its writer was killed."""
        for folder in folders:
            remove_checkpoints(self.root / folder)
            sweep(self.root / folder)


def storage_of(place: Path | Storage) -> Storage:
    """A folder of this machine as a storage; a storage as it is."""
    return FolderStorage(place) if isinstance(place, Path) else place


def storage_at(place: Path | str) -> Storage:
    """The storage that a path or a URI names: PATH, file:///PATH or s3://BUCKET/PREFIX.

    AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL names an S3 server that is not Amazon's.

    Raises:
        ValueError: it is none of these, or has a password in it.
    """
    parts = urlsplit(str(place))
    if parts.scheme == "s3":
        from hpo.bucket import bucket_at

        return bucket_at(str(place))
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and len(parts.path) > 1:
        return FolderStorage(Path(unquote(parts.path)))
    if ":/" in str(place):
        raise ValueError(f"--storage {place}: give a path, file:///PATH or s3://BUCKET/PREFIX")
    given = Path(place).expanduser()
    return FolderStorage(given.absolute(), relative=not given.is_absolute())


@contextmanager
def checked(storage: Storage) -> Iterator[tuple[str, bytes]]:
    """See that files can be written, read back, listed and deleted: the file that shows it, for
    others to look at inside.

    Raises:
        OSError: they cannot; the message says where, why and what to do.
    """
    name, content = f"check-{uuid.uuid4().hex}/file", uuid.uuid4().bytes
    storage.write(name, content)
    try:
        found = storage.read(name) if storage.files(name.rpartition("/")[0]) == [name] else b""
        if found != content:
            raise OSError(f"{storage.uri}: what was written there does not come back")
        yield name, content
    finally:
        storage.delete(name)


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: aside, synced, renamed.

    Raises:
        OSError: it cannot be written; the error names `path`.
    """
    with in_place_of(path) as aside, open(aside, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def in_place_of(path: Path) -> Iterator[Path]:
    """A file to write in the block; after it, it takes the place of `path`.

    Raises:
        OSError: it cannot be written; the error names `path`, where the system names nothing or
            the file aside.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        os.replace(aside, path)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        aside.unlink(missing_ok=True)


def sweep(directory: Path) -> None:
    """Remove what `in_place_of` left aside in the directory when its process was killed."""
    for path in directory.glob(".*.[0-9]*"):
        if _ASIDE.fullmatch(path.name):
            path.unlink(missing_ok=True)

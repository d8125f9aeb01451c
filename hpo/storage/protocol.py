"""What a place for a study's files can do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

Keep = Callable[[], None]
"""To be called after an epoch: a checkpoint that was written is brought to safety."""


class Storage(Protocol):
    """Files under names such as "cells/ID/result.json", each written whole or not at all.

    What fails raises OSError, a file that is not there FileNotFoundError.
    """

    @property
    def uri(self) -> str:
        """Returns the name that a user would give the place."""

    @property
    def relative(self) -> bool:
        """Whether the name depends on where the study was started."""

    def read(self, name: str) -> bytes:
        """Returns the content of a file."""

    def write(self, name: str, content: bytes) -> None:
        """Replaces a file; a kill leaves the old one or the new one."""

    def delete(self, name: str) -> None:
        """Deletes a file, if it is there, and with its last file a folder."""

    def files(self, folder: str) -> list[str]:
        """Returns the names of all files below a folder, which need not exist, sorted."""

    def rename(self, folder: str, new: str) -> None:
        """Gives a folder another name."""

    def checkpoints(self, folder: str) -> AbstractContextManager[tuple[Path, Keep]]:
        """Yields the directory of this machine where a training finds and leaves the folder's
        checkpoints, and what brings them from there into the storage."""

    def remove_checkpoints(self, folders: Iterable[str]) -> None:
        """Deletes the checkpoints of these folders, whole or partial."""

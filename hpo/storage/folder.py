"""A folder of this machine, or one that machines share, as a place for files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from core.training.checkpoint import remove_checkpoints
from hpo.storage.atomic import sweep, write_bytes_atomically
from hpo.storage.protocol import Keep


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
        """Returns its path."""
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
        paths = (self.root / folder).rglob("*")
        return sorted(path.relative_to(self.root).as_posix() for path in paths if path.is_file())

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

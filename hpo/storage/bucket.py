"""A prefix of an S3 bucket as a place for cells, through pyarrow."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core.training.checkpoint import CURRENT, PREVIOUS
from hpo.storage.protocol import Keep

REST = 10.0
"""A checkpoint is uploaded after so many times as long as the last one took: a training waits for
uploads a tenth of its time at most."""


@dataclass(frozen=True)
class BucketStorage:
    """A prefix of a bucket, on S3 or a server that speaks like it; see
    `hpo.storage.protocol.Storage`.

    It is sent to workers and so holds no credentials: each machine has its own, in the variables
    AWS_*, in ~/.aws or by its role.

    Attributes:
        path: bucket and prefix, a slash between them.
        endpoint: URL of a server that is not Amazon's, or None.
        region: of the bucket; None is what pyarrow finds out.
    """

    path: str
    endpoint: str | None = None
    region: str | None = None

    @property
    def uri(self) -> str:
        """As a user writes it."""
        return f"s3://{self.path}"

    @property
    def relative(self) -> bool:
        """It is the same from everywhere."""
        return False

    def read(self, name: str) -> bytes:
        """See `Storage`."""
        with self._told(name), self._bucket.open_input_stream(f"{self.path}/{name}") as stream:
            content: bytes = stream.readall()
        return content

    def write(self, name: str, content: bytes) -> None:
        """See `Storage`: an object is there when all of it has arrived."""
        with self._told(name), self._bucket.open_output_stream(f"{self.path}/{name}") as stream:
            stream.write(content)

    def delete(self, name: str) -> None:
        """See `Storage`."""
        with self._told(name), suppress(FileNotFoundError):
            self._bucket.delete_file(f"{self.path}/{name}")

    def files(self, folder: str) -> list[str]:
        """See `Storage`."""
        from pyarrow.fs import FileSelector, FileType

        place = f"{self.path}/{folder}"
        with self._told(folder):
            below = FileSelector(place, recursive=True, allow_not_found=True)
            infos = self._bucket.get_file_info(below)
        start = len(self.path) + 1
        return sorted(info.path[start:] for info in infos if info.type == FileType.File)

    def rename(self, folder: str, new: str) -> None:
        """See `Storage`: object after object, so that a kill leaves some in both."""
        for name in self.files(folder):
            self.copy(name, new + name.removeprefix(folder))
            self.delete(name)

    @contextmanager
    def checkpoints(self, folder: str) -> Iterator[tuple[Path, Keep]]:
        """See `Storage`: copies in a temporary directory of this machine."""
        with tempfile.TemporaryDirectory(prefix="checkpoints-", ignore_cleanup_errors=True) as made:
            directory = Path(made)
            for name in (CURRENT, PREVIOUS):
                with suppress(FileNotFoundError):
                    (directory / name).write_bytes(self.read(f"{folder}/{name}"))
            yield directory, _Upload(self, folder, directory / CURRENT).keep

    def remove_checkpoints(self, folders: Iterable[str]) -> None:
        """See `Storage`: there are no partial ones."""
        folders = set(folders)
        below = folders.copy().pop() if len(folders) == 1 else "cells"
        for name in self.files(below) if folders else []:
            folder, _, file = name.rpartition("/")
            if folder in folders and file in (CURRENT, PREVIOUS):
                self.delete(name)

    def copy(self, name: str, new: str) -> None:
        """Copy a file inside the bucket, if it is there."""
        with self._told(name), suppress(FileNotFoundError):
            self._bucket.copy_file(f"{self.path}/{name}", f"{self.path}/{new}")

    @cached_property
    def _bucket(self) -> Any:
        from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

        return S3FileSystem(
            endpoint_override=self.endpoint,
            region=self.region,
            connect_timeout=5,
            retry_strategy=AwsStandardS3RetryStrategy(max_attempts=3),
        )

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Errors in our words: pyarrow's own begin with what it was about to do."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            where = f"{self.uri}/{name}" + (f" at {self.endpoint}" if self.endpoint else "")
            said = " ".join(str(error).split()).partition(" (Request ID")[0]
            said = said[max(0, said.find("AWS Error")) :]
            raise OSError(
                f"{where}: {said}; see to the bucket, AWS_ENDPOINT_URL and the credentials, which "
                "are looked for in AWS_*, in ~/.aws and in the machine's role"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        """Without the connection: each process makes its own."""
        return {"path": self.path, "endpoint": self.endpoint, "region": self.region}


class _Upload:
    """Brings a checkpoint to a bucket when there is a new one."""

    def __init__(self, storage: BucketStorage, folder: str, path: Path):
        self._storage = storage
        self._folder = folder
        self._path = path
        self._kept = self._version()
        self._due = float("-inf")

    def keep(self) -> None:
        """Upload the checkpoint, the last one becoming the one before, unless it is there."""
        begun, version = time.monotonic(), self._version()
        if version == self._kept or begun < self._due:
            return
        if self._kept is not None:
            self._storage.copy(f"{self._folder}/{CURRENT}", f"{self._folder}/{PREVIOUS}")
        self._storage.write(f"{self._folder}/{CURRENT}", self._path.read_bytes())
        ended = time.monotonic()
        self._kept, self._due = version, ended + REST * (ended - begun)

    def _version(self) -> tuple[int, int] | None:
        """What changes when the file is replaced; None where there is none."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return None
        return stat.st_mtime_ns, stat.st_ino


def bucket_at(uri: str) -> BucketStorage:
    """The storage that s3://BUCKET/PREFIX names, on the server that the environment names.

    Raises:
        ValueError: bucket or prefix are missing, or there is more in it.
    """
    parts = urlsplit(uri)
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(
            "--storage s3://BUCKET/PREFIX takes no credentials and no options; set "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL instead"
        )
    prefix = parts.path.strip("/")
    if not parts.netloc or not prefix:
        raise ValueError(f"--storage {uri}: give bucket and prefix, as in s3://bucket/table2")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    # Servers of one's own have no regions, but requests are signed for one.
    return BucketStorage(
        f"{parts.netloc}/{prefix}", endpoint, region or ("us-east-1" if endpoint else None)
    )

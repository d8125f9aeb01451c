"""A prefix of a bucket as a place for cells: on S3, Google Cloud or Azure, through pyarrow."""

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
from urllib.parse import quote, urlencode, urlsplit

from core.training.checkpoint import CURRENT, PREVIOUS
from hpo.storage.protocol import Keep

REST = 10.0
"""A checkpoint is uploaded after so many times as long as the last one took: a training waits for
uploads a tenth of its time at most."""

CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL, in ~/.aws",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, in what `gcloud auth application-default login` left",
    "abfs": "AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET, in what `az login` left",
}
"""Where pyarrow looks for the credentials of a kind of bucket, beside the role of the machine."""


@dataclass(frozen=True)
class BucketStorage:
    """A prefix of a bucket; see `hpo.storage.protocol.Storage`.

    It is sent to workers and so holds no credentials: each machine has its own.

    Attributes:
        uri: scheme, bucket and prefix, as a user writes them.
        endpoint: URL of an S3 server that is not Amazon's, or None.
        region: region of an S3 bucket; None is what pyarrow finds out.
    """

    uri: str
    endpoint: str | None = None
    region: str | None = None

    @property
    def relative(self) -> bool:
        """It is the same from everywhere."""
        return False

    def read(self, name: str) -> bytes:
        """See `Storage`."""
        with self._plain_errors(name), self._files.open_input_stream(name) as stream:
            content: bytes = stream.readall()
        return content

    def write(self, name: str, content: bytes) -> None:
        """See `Storage`: an object is there when all of it has arrived."""
        with self._plain_errors(name), self._files.open_output_stream(name) as stream:
            stream.write(content)

    def delete(self, name: str) -> None:
        """See `Storage`."""
        with self._plain_errors(name), suppress(FileNotFoundError):
            self._files.delete_file(name)

    def files(self, folder: str) -> list[str]:
        """See `Storage`."""
        from pyarrow.fs import FileSelector, FileType

        with self._plain_errors(folder):
            below = FileSelector(folder, recursive=True, allow_not_found=True)
            infos = self._files.get_file_info(below)
        return sorted(info.path for info in infos if info.type == FileType.File)

    def rename(self, folder: str, new: str) -> None:
        """See `Storage`: object after object, so that a kill leaves some in both."""
        for name in self.files(folder):
            self._copy(name, new + name.removeprefix(folder))
            self.delete(name)

    @contextmanager
    def checkpoints(self, folder: str) -> Iterator[tuple[Path, Keep]]:
        """See `Storage`: copies in a temporary directory of this machine."""
        with tempfile.TemporaryDirectory(prefix="checkpoints-", ignore_cleanup_errors=True) as made:
            directory = Path(made)
            for name in (CURRENT, PREVIOUS):
                with suppress(FileNotFoundError):
                    (directory / name).write_bytes(self.read(f"{folder}/{name}"))
            path = directory / CURRENT
            uploaded, due = _version(path), float("-inf")

            def keep() -> None:
                """Uploads the checkpoint, the last one becoming the one before, if it is new."""
                nonlocal uploaded, due
                begun, version = time.monotonic(), _version(path)
                if version == uploaded or begun < due:
                    return
                if uploaded is not None:
                    self._copy(f"{folder}/{CURRENT}", f"{folder}/{PREVIOUS}")
                self.write(f"{folder}/{CURRENT}", path.read_bytes())
                ended = time.monotonic()
                uploaded, due = version, ended + REST * (ended - begun)

            yield directory, keep

    def remove_checkpoints(self, folders: Iterable[str]) -> None:
        """See `Storage`: there are no partial ones."""
        folders = set(folders)
        below = folders.copy().pop() if len(folders) == 1 else "cells"
        for name in self.files(below) if folders else []:
            folder, _, file = name.rpartition("/")
            if folder in folders and file in (CURRENT, PREVIOUS):
                self.delete(name)

    def _copy(self, name: str, new: str) -> None:
        with self._plain_errors(name), suppress(FileNotFoundError):
            self._files.copy_file(name, new)

    @cached_property
    def _files(self) -> Any:
        """Returns the prefix as a file system of pyarrow."""
        from pyarrow.fs import FileSystem, SubTreeFileSystem

        options: dict[str, str] = {}
        if self.endpoint is not None:
            server = urlsplit(self.endpoint)
            options = {"scheme": server.scheme, "endpoint_override": server.netloc}
        if self.region is not None:
            options["region"] = self.region
        if self.uri.startswith("gs:"):
            options["retry_limit_seconds"] = "15"  # or it would try for a quarter of an hour
        uri = quote(self.uri, safe="/:@%")
        bucket, prefix = FileSystem.from_uri(f"{uri}?{urlencode(options)}")
        return SubTreeFileSystem(prefix, bucket)

    @contextmanager
    def _plain_errors(self, name: str) -> Iterator[None]:
        """Puts errors in one line of our words: pyarrow's begin with what it was about to do."""
        from pyarrow import ArrowException

        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, ArrowException) as error:
            where = f"{self.uri}/{name}" + (f" at {self.endpoint}" if self.endpoint else "")
            said = " ".join(str(error).split())
            for details in (" (Request ID", " error_info="):
                said = said.partition(details)[0]
            said = said[max(0, said.find("AWS Error")) :]
            raise OSError(
                f"{where}: {said}; see to the bucket and to the credentials, which are looked for "
                f"in {CREDENTIALS[_kind(self.uri)]} and in the machine's role"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the connection: each process makes its own."""
        return {"uri": self.uri, "endpoint": self.endpoint, "region": self.region}


def _version(path: Path) -> tuple[int, int] | None:
    """Returns what changes when the file is replaced; None where there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_mtime_ns, stat.st_ino


def bucket_at(uri: str) -> BucketStorage:
    """Returns the storage that s3://, gs:// or abfs:// and BUCKET/PREFIX name.

    The environment names the server and region of an S3 bucket.

    Raises:
        ValueError: bucket or prefix are missing, or there is more in it.
    """
    parts, kind = urlsplit(uri), _kind(uri)
    user, at, bucket = parts.netloc.rpartition("@")
    # An Azure URI names the account after the container: abfs://CONTAINER@ACCOUNT...
    if parts.query or parts.fragment or ":" in user or (at and kind != "abfs"):
        raise ValueError(
            f"--storage {kind}://BUCKET/PREFIX takes no credentials and no options; set "
            f"{CREDENTIALS[kind].partition(', in ')[0]} instead"
        )
    prefix = parts.path.strip("/")
    if not bucket or not prefix or "//" in prefix:
        raise ValueError(f"--storage {uri}: give bucket and prefix, as in {kind}://bucket/table2")
    uri = f"{parts.scheme}://{parts.netloc}/{prefix}"
    if kind != "s3":
        return BucketStorage(uri)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    # Servers of one's own have no regions, but requests are signed for one.
    return BucketStorage(uri, endpoint, region or ("us-east-1" if endpoint else None))


def _kind(uri: str) -> str:
    """Returns the key of `CREDENTIALS`: abfss is abfs, as gcs is gs."""
    scheme = urlsplit(uri).scheme
    return {"abfss": "abfs", "gcs": "gs"}.get(scheme, scheme)

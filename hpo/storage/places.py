"""Where a study's cells live: a folder, perhaps one that machines share, or a prefix of a bucket.

Results and checkpoints go there, and the identity under which the study is tracked: who has the
place can go on with the study, on whatever machine.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from hpo.storage.folder import FolderStorage
from hpo.storage.protocol import Storage
from hpo.storage.shown import shown_uri


def storage_of(place: str | Path | Storage) -> Storage:
    """Returns a folder of this machine as a storage, what a text names (see `storage_at`), and a
    storage as it is.

    Raises:
        ValueError: the text names no place.
    """
    if isinstance(place, str):
        return storage_at(place)
    return FolderStorage(place) if isinstance(place, Path) else place


def storage_at(place: Path | str) -> Storage:
    """Returns the storage that a path or a URI names: PATH, file:///PATH, or after s3://, gs:// or
    abfs:// BUCKET/PREFIX.

    AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL names an S3 server that is not Amazon's.

    Raises:
        ValueError: it is none of these, is empty, or has a password in it.
    """
    uri = place if isinstance(place, str) else ""
    if isinstance(place, str) and not place.strip():
        raise ValueError("--storage names no place (it is empty); give a path, or leave it out")
    parts = urlsplit(uri)
    if parts.scheme in ("s3", "gs", "gcs", "abfs", "abfss"):
        from hpo.storage.bucket import bucket_at

        return bucket_at(uri)
    local = parts.scheme == "file" and parts.netloc in ("", "localhost")
    if local and re.match("/.", parts.path):
        if "?" in uri or "#" in uri:
            raise ValueError(
                f"--storage {shown_uri(uri)}: a file URI has no ? and no #; write %3F and %23 "
                "where they belong to the folder's name"
            )
        return FolderStorage(Path(unquote(parts.path)))
    if parts.scheme == "file" or ":/" in uri:
        raise ValueError(
            f"--storage {shown_uri(uri)}: give a path, file:///PATH, or a bucket: "
            "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or "
            "abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX"
        )
    given = Path(place).expanduser()
    return FolderStorage(given.absolute(), relative=not given.is_absolute())


def output_at(place: str | Path) -> Path:
    """Returns the absolute path of an output folder given from Python.

    Raises:
        ValueError: it is the empty text, which would be the current folder.
    """
    if not str(place).strip():
        raise ValueError('output names no folder (it is empty); give one, such as "results"')
    return Path(place).expanduser().absolute()


@contextmanager
def checked(storage: Storage) -> Iterator[tuple[str, bytes]]:
    """Sees that files can be written, read back, listed and deleted.

    Yields the name and the content of the file that shows it, for others to look at.

    Raises:
        OSError: they cannot; the message says where, why and what to do.
    """
    name, content = f"check-{uuid.uuid4().hex}/file", uuid.uuid4().bytes
    storage.write(name, content)
    try:
        listed = storage.files(name.rpartition("/")[0]) == [name]
        if not listed or storage.read(name) != content:
            raise OSError(f"{storage.uri}: what was written there does not come back")
        yield name, content
    finally:
        storage.delete(name)

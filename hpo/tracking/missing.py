"""The ledger of what an MLflow store lacks of a study: names only, since the records hold the rest.

It lies beside the results while a store is away. A run is rebuilt from its cell's record, whatever
part of it the store has by then, so that sending twice leaves everything once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hpo.storage.atomic import write_atomically
from hpo.storage.protocol import Storage
from hpo.storage.shown import shown_uri
from hpo.tracking.signals import signals_held_back
from hpo.tracking.stored import RunStatus
from hpo.tracking.uris import local_tracking_uri, without_user

_logger = logging.getLogger(__name__)


@dataclass
class Missing:
    """What a store lacks of one study.

    It holds no address and no password, and nothing of it is ever run.

    Attributes:
        path: where it is kept while anything is missing.
        study_id: identity of the study.
        experiment: name of its experiment.
        params: parameters of its parent run.
        runs: keys of the runs that lack something, each with its record where that is stored
            nowhere else: of a crashed cell the `CellRecord`, of a summary its row.
        files: names of artifacts, relative to the output folder.
        note: description of the parent run.
        status: how the study ended; None while it runs, or where its driver was killed.
        unkept: it could not be written last time.
    """

    path: Path
    study_id: str
    experiment: str
    params: dict[str, str] = field(default_factory=dict)
    runs: dict[str, Any] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    note: str = ""
    status: RunStatus | None = None
    unkept: bool = False

    @classmethod
    def of(cls, output: Path, uri: str, study_id: str, experiment: str) -> Missing:
        """Returns the study's ledger, which is empty where there is none that can be read."""
        path = output / f"{_prefix(output, uri)}{_file_name(experiment)}.json"
        ledger = cls._read(path)
        if ledger is not None and ledger.study_id == study_id:
            return ledger
        return cls(path, study_id, experiment)

    @classmethod
    def all_in(cls, output: Path, uri: str) -> list[Missing]:
        """Returns the ledgers of an output folder for this store, one a study."""
        ledgers = map(cls._read, sorted(output.glob(f"{_prefix(output, uri)}*.json")))
        return [ledger for ledger in ledgers if ledger is not None]

    @classmethod
    def _read(cls, path: Path) -> Missing | None:
        try:
            ledger = cls(path, **json.loads(path.read_bytes()))
            if not (isinstance(ledger.runs, dict) and isinstance(ledger.files, list)):
                raise TypeError("runs must be an object and files a list")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            _logger.warning("%s is damaged (%s) and passed over", path, error)
            return None
        return ledger

    def note_file(self, path: Path, output: Path) -> str | None:
        """Notes an artifact, and returns its name; None of a file outside of the output folder,
        which is not read again from here."""
        if not path.resolve().is_relative_to(output.resolve()):
            return None
        name = path.resolve().relative_to(output.resolve()).as_posix()
        if name not in self.files:
            self.files.append(name)
        return name

    def save(self) -> None:
        """Writes the ledger, or removes it where nothing is missing.

        That it cannot be written, on a full disk, is logged once.
        """
        content = {k: v for k, v in asdict(self).items() if k not in ("path", "unkept")}
        try:
            if not (self.runs or self.files):
                self.path.unlink(missing_ok=True)
                return
            with signals_held_back():
                write_atomically(self.path, json.dumps(content, indent=1))
        except OSError as error:
            if not self.unkept:
                _logger.warning("cannot keep what MLflow misses in %s: %s", self.path, error)
            self.unkept = True
        else:
            self.unkept = False

    def way_out(self, uri: str, storage: Storage | None) -> str:
        """Returns what is missing and what sends it."""
        output = self.path.parent
        command = ["python", "-m", "hpo.complete_tracking", str(output)]
        if uri != local_tracking_uri(output):
            command += ["--tracking-uri", shown_uri(uri)]
        if storage is not None and storage.uri != str(output):
            command += ["--storage", storage.uri]
        by = "" if self.unkept else f"`{shlex.join(command)}`, and by "
        return (
            f"what is missing (runs: {len(self.runs)}, files: {len(self.files)}) is sent, once "
            f"the store works, by {by}the same study run again, without --fresh: it trains nothing "
            "twice"
        )


def _prefix(output: Path, uri: str) -> str:
    """Returns how the names of a store's ledgers begin, whoever asks for it there."""
    store = "local" if uri == local_tracking_uri(output) else _digest(without_user(uri).rstrip("/"))
    return f"mlflow-pending-{store}-"


def _file_name(experiment: str) -> str:
    """Returns a name that is a file's everywhere, and no other experiment's."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", experiment)
    return name if name == experiment else f"{name}-{_digest(experiment)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]

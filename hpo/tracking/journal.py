"""What an MLflow store has not taken yet, kept on disk until it has.

While a store is away, the tracker appends here what it could not write: one JSON line after
another, flushed to the disk. Whoever opens the store next from this folder sends them first, in
this order. A line is sent to a run that is looked up, and values that the store has are left out,
so that sending twice, or a kill while sending, leaves everything once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hpo.storage.atomic import write_atomically
from hpo.tracking.details import MAP_KEY, map_image
from hpo.tracking.run import TrackedRun
from hpo.tracking.signals import signals_held_back
from hpo.tracking.store import (
    TrackingError,
    first_line,
    local_tracking_uri,
    open_experiment,
    without_user,
)
from hpo.tracking.stored import DIGEST, RunStatus, StoredRun, runs_to_continue, settle, stored_runs

_NAME = "mlflow-pending"
_TERMINAL: Mapping[str, RunStatus] = {"FINISHED": "FINISHED", "FAILED": "FAILED"}

_logger = logging.getLogger(__name__)


@dataclass
class _Run:
    """The lines of one run, put together."""

    opening: Mapping[str, Any]
    epochs: list[tuple[int, Mapping[str, float]]] = field(default_factory=list)
    end: Mapping[str, Any] | None = None

    def tracked(self, stored: StoredRun | None) -> TrackedRun | None:
        """The run to bring the store to, or None where it is there already."""
        replaces = self.opening["replaces"]
        if stored is not None and stored.run_id == replaces:
            stored = None
        else:
            replaces = None  # done before
        if stored is not None and stored.is_complete:
            digest = self.end["tags"].get(DIGEST) if self.end is not None else None
            if digest in (None, stored.tags[DIGEST]):
                return None
        run = TrackedRun(
            self.opening["name"],
            self.opening["tags"],
            self.opening["params"],
            stored=stored,
            replaces=replaces,
            began=self.opening["began"],
        )
        for at, metrics in self.epochs:
            run.add_epoch(metrics, at=at)
        if self.end is not None:
            end = self.end
            run.finish(end["status"], end["metrics"], end["tags"], end["series"], at=end["at"])
        else:  # its driver was killed
            run.finish(_TERMINAL.get(stored.status if stored else "", "KILLED"), {}, {})
        return run


@dataclass
class _Study:
    experiment: str
    runs: dict[str, _Run] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    maps: dict[tuple[str, int], list[list[float]]] = field(default_factory=dict)

    def place(self, study_id: str) -> dict[str, str]:
        return {"study_id": study_id, "experiment": self.experiment}

    def artifacts(
        self, client: Any, runs: Mapping[str, StoredRun], output: Path
    ) -> Iterator[tuple[Mapping[str, Any], str, Callable[[], None]]]:
        """The line of each, its name, and what sends it."""
        for name in self.files:
            parent = runs["study"].run_id
            yield {"file": name}, name, partial(client.log_artifact, parent, str(output / name))
        for (key, epoch), values in self.maps.items():
            lam = np.array(values, dtype=float)
            act = partial(send_map, client, runs[key].run_id, epoch, lam)
            yield map_line(key, epoch, lam), f"map of {key}, epoch {epoch}", act


def map_line(key: str, epoch: int, lam: np.ndarray) -> dict[str, Any]:
    """The line of a picture of λ by classes [C, C] that belongs to the run of this key."""
    return {"run": key, "map": {"epoch": epoch, "lam": lam.tolist()}}


def send_map(client: Any, run_id: str, epoch: int, lam: np.ndarray) -> None:
    """Log the picture of λ by classes [C, C], unless the run has one of this epoch."""
    # As MLflow names them, later and earlier versions.
    starts = tuple(f"images/{MAP_KEY}{mark}step{mark}{epoch}{mark}" for mark in "+%")
    if not any(found.path.startswith(starts) for found in client.list_artifacts(run_id, "images")):
        client.log_image(run_id, map_image(lam), key=MAP_KEY, step=epoch, synchronous=True)


@dataclass
class Sent:
    """What a store took from the journal: runs, files, and what is wrong with other files."""

    runs: int = 0
    files: int = 0
    trouble: list[str] = field(default_factory=list)


class Journal:
    """`DIR/mlflow-pending.jsonl` of the folder's own store, `-HASH.jsonl` for each other.

    It holds no address and no password, and nothing of it is ever run.

    Args:
        output: the study's output folder.
        uri: of the store; who asks for it there, user and password, makes no difference.

    Attributes:
        path: of the file.
        failed: something could not be kept.
    """

    def __init__(self, output: Path, uri: str) -> None:
        self._output = output
        own = uri == local_tracking_uri(output)
        mark = "" if own else "-" + hashlib.sha256(without_user(uri).encode()).hexdigest()[:8]
        self.path = output / f"{_NAME}{mark}.jsonl"
        self.failed = False

    def append(self, study_id: str, experiment: str, lines: Iterable[Mapping[str, Any]]) -> None:
        """Add the lines of a study. That they cannot be kept, on a full disk, is only logged."""
        place = _Study(experiment).place(study_id)
        # The newline comes first: half a line, left by a kill or a full disk, spoils no other.
        text = "".join("\n" + json.dumps({**place, **line}) for line in lines)
        if not text:
            return
        try:
            with signals_held_back(), open(self.path, "a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if not self.failed:
                _logger.warning("cannot keep MLflow records in %s: %s", self.path, error)
            self.failed = True

    def file_lines(self, paths: Iterable[Path]) -> Iterator[dict[str, str]]:
        """The lines of artifacts: files of the output folder, and no others."""
        folder = self._output.resolve()
        for path in paths:
            if path.resolve().is_relative_to(folder):
                yield {"file": path.resolve().relative_to(folder).as_posix()}

    def clear(self) -> None:
        """Forget everything: the store has it."""
        self.path.unlink(missing_ok=True)

    def send(self, client: Any, uri: str) -> Sent:
        """Bring the store to what the journal says, and forget what it took.

        What is RUNNING of the studies in it becomes KILLED: nobody else may be writing them.

        Args:
            client: the `MlflowClient` to write with, inside `mlflow_settings`.
            uri: of the store.

        Raises:
            MlflowException, OSError: the store failed; the journal stays whole.
        """
        sent = Sent()
        refused: list[str] = []
        for study_id, study in self._studies().items():
            try:
                place = open_experiment(client, uri, study.experiment, self._output)
            except TrackingError as error:  # it was deleted: its records are not wanted there
                _logger.warning("%s; what was kept for it is dropped", error)
                continue
            found = stored_runs(client, place, study_id)
            stored = runs_to_continue(found)
            settle(client, found, {key: run.run_id for key, run in stored.items()})
            for key, lines in study.runs.items():
                try:
                    run = lines.tracked(stored.get(key))
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    _logger.warning("what %s says of %s is damaged: %r", self.path, key, error)
                    continue
                if run is not None:
                    run.sync(client, place)
                sent.runs += 1
            runs = runs_to_continue(stored_runs(client, place, study_id))
            for line, name, act in study.artifacts(client, runs, self._output):
                try:
                    act()
                    sent.files += 1
                except Exception as error:  # boto3 is missing, a bucket refuses: anything
                    sent.trouble.append(f"{name}: {first_line(error)}")
                    refused.append(json.dumps({**study.place(study_id), **line}))
        if refused:
            write_atomically(self.path, "\n".join(refused))
        else:
            self.clear()
        return sent

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        for number, text in enumerate(self.path.read_text("utf-8", "replace").splitlines(), 1):
            if not text.strip():
                continue
            try:
                line = json.loads(text)
                line["study_id"], line["experiment"], line["file" if "file" in line else "run"]
            except (ValueError, KeyError, TypeError):
                _logger.warning("line %d of %s is damaged and passed over", number, self.path)
            else:
                yield line

    def _studies(self) -> dict[str, _Study]:
        folder = self._output.resolve()
        studies: dict[str, _Study] = {}
        for line in self._lines():
            study = studies.setdefault(line["study_id"], _Study(line["experiment"]))
            if "file" in line:
                # A journal from elsewhere must not have any file of this machine sent away.
                inside = (folder / line["file"]).resolve().is_relative_to(folder)
                if inside and line["file"] not in study.files:
                    study.files.append(line["file"])
            elif "map" in line:
                study.maps[line["run"], line["map"]["epoch"]] = line["map"]["lam"]
            elif "opening" in line:  # a second one is of a run that takes the first one's place
                study.runs[line["run"]] = _Run(line["opening"])
            elif line["run"] in study.runs:
                run = study.runs[line["run"]]
                run.epochs += [(at, metrics) for at, metrics in line.get("epochs", ())]
                run.end = line.get("end", run.end)
        return studies

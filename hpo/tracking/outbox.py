"""What a study has for its store, on its way there. A store that is away holds nobody up."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from hpo.storage.shown import shown_uri
from hpo.tracking.missing import Missing
from hpo.tracking.run import TrackedRun
from hpo.tracking.store import Patience, mlflow_settings, store_errors
from hpo.tracking.uris import first_line

RETRY_SECONDS = 60.0
"""A store that failed is asked again after so long."""

REST = 10.0
"""A store that lets one wait is left alone for so many times as long: a study loses a tenth of its
time at most."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Artifact:
    """A file or a picture that belongs to a run, and waits until the store has that.

    Attributes:
        name: what a message calls it.
        send: sends it, given the id of the run.
        file: its name in the ledger; None where the run's record brings it back.
    """

    run: TrackedRun
    name: str
    send: Callable[[str], None]
    file: str | None = None


class Outbox:
    """Writes runs and artifacts to a store in order, and keeps those that it does not take.

    Args:
        client: the `MlflowClient` to write with.
        experiment_id: where new runs are created.
        uri: address of the store, for messages.
        missing: the ledger; runs that have ended and files are to be in it before they come here,
            and are taken out when the store has them.

    Attributes:
        artifacts: what `write_artifacts` is to send.
        trouble: what failed last since `last_time`, or None.
    """

    def __init__(self, client: Any, experiment_id: str, uri: str, missing: Missing) -> None:
        self.trouble: str | None = None
        self._client = client
        self._experiment_id = experiment_id
        self._uri = uri
        self._missing = missing
        self._behind: dict[str, TrackedRun] = {}
        self.artifacts: list[Artifact] = []
        self._away = False
        self._retry_at = float("-inf")
        self._final = False

    def write(self, run: TrackedRun) -> list[TrackedRun]:
        """Writes the run, and before it those that the store has missed; returns what it took."""
        self._behind[run.key] = run
        taken: list[TrackedRun] = []
        for waiting in list(self._behind.values()):
            sent = self.attempt(partial(waiting.sync, self._client, self._experiment_id))
            del self._behind[waiting.key]
            if sent:
                taken.append(waiting)
                self._strike_out(waiting)
            else:  # it goes last, or one that the store does not want would hold up others
                self._behind[waiting.key] = waiting
        run.synced_at = time.monotonic()
        if taken or run.status is not None:  # epochs alone do not change the ledger
            self._missing.save()
        return taken

    def write_artifacts(self) -> None:
        """Sends the artifacts whose runs the store has. Its refusal keeps no records waiting."""
        for artifact in list(self.artifacts):
            if artifact.run.run_id is None:
                continue
            if time.monotonic() < self._retry_at:
                break
            try:
                with mlflow_settings(self._patience):
                    artifact.send(artifact.run.run_id)
            except Exception as error:  # boto3 is missing, a bucket refuses: anything
                self._note("files", f"{artifact.name}: {first_line(error)}")
                self.artifacts.remove(artifact)
                self.artifacts.append(artifact)  # the others come first the next time
                break
            self.artifacts.remove(artifact)
            if artifact.file in self._missing.files:
                self._missing.files.remove(artifact.file)
            self._strike_out(artifact.run)
        self._missing.save()

    def attempt(self, action: Callable[[], None]) -> bool:
        """Does what writes records, unless the store is left alone now; returns whether it did.

        A failure is logged once, until the store is back.
        """
        begun = time.monotonic()
        if begun < self._retry_at:
            return False
        try:
            with mlflow_settings(self._patience):
                action()
        except store_errors() as error:
            self._note("records", first_line(error), quiet=self._away)
            self._away = True
            if not (self._final and _refused(error)):
                now = time.monotonic()
                self._retry_at = now + max(RETRY_SECONDS, REST * (now - begun))
            return False
        self._away = False
        return True

    def last_time(self, *, brief: bool = False) -> None:
        """Makes what comes now the last attempt, whatever failed before."""
        self.trouble = None
        self._retry_at = float("-inf")
        self._final = True
        self._away = self._away or brief

    def _strike_out(self, run: TrackedRun) -> None:
        pictures = any(a.run is run and a.file is None for a in self.artifacts)
        if run.ended and not pictures:
            self._missing.runs.pop(run.key, None)

    @property
    def _patience(self) -> Patience:
        if self._away:
            return "brief"
        return "patient" if self._final else "running"

    def _note(self, refused: str, trouble: str, *, quiet: bool = False) -> None:
        self.trouble = trouble
        if not quiet and not self._final:
            warning = f"the MLflow store {shown_uri(self._uri)} does not take {refused} ({trouble})"
            _logger.warning("%s; the study goes on and tries again later", warning)


def _refused(error: Exception) -> bool:
    """Returns whether the store is there and does not want this one record."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.get_http_status_code() < 500

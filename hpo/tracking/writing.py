"""Writing to a store that may go away, without holding up those who wait for the writer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from hpo.tracking.store import Patience, first_line, mlflow_settings, shown_uri, store_errors

_RETRY_SECONDS = 60.0
# A store that lets one wait is left alone for so many times as long: a study loses a tenth at most.
_REST = 10.0

_logger = logging.getLogger(__name__)


class Writing:
    """Does what writes to a store, unless it failed a minute ago; then briefly, until it is back.

    Args:
        uri: of the store, for messages.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._trouble: str | None = None
        self._away = False
        self._retry_at = float("-inf")
        self._final = False

    @property
    def trouble(self) -> str | None:
        """What failed last since `last_time`, or None."""
        return self._trouble

    def records(self, action: Callable[[], None]) -> bool:
        """Do ``action``, unless the store is left alone at the moment. Whether it was done.

        A failure is logged once, until the store is back.
        """
        begun = time.monotonic()
        if begun < self._retry_at:
            return False
        try:
            with mlflow_settings(self._patience):
                action()
        except store_errors() as error:
            self._note("records", error, quiet=self._away)
            self._away = True
            if not (self._final and _refused(error)):
                now = time.monotonic()
                self._retry_at = now + max(_RETRY_SECONDS, _REST * (now - begun))
            return False
        self._away = False
        return True

    def files(self, action: Callable[[], None]) -> bool:
        """Likewise for artifacts; that they are refused does not keep records waiting."""
        if time.monotonic() < self._retry_at:
            return False
        try:
            with mlflow_settings(self._patience):
                action()
        except Exception as error:  # boto3 is missing, a bucket refuses: anything
            self._note("files", error)
            return False
        return True

    def last_time(self, *, brief: bool = False) -> None:
        """What comes now is the last attempt, made whatever failed before."""
        self._trouble = None
        self._retry_at = float("-inf")
        self._final = True
        self._away = self._away or brief

    @property
    def _patience(self) -> Patience:
        if self._away:
            return "brief"
        return "patient" if self._final else "running"

    def _note(self, refused: str, error: Exception, *, quiet: bool = False) -> None:
        self._trouble = first_line(error)
        if not quiet and not self._final:
            _logger.warning(
                "the MLflow store %s does not take %s (%s); the study goes on and tries again "
                "later",
                shown_uri(self._uri),
                refused,
                self._trouble,
            )


def _refused(error: Exception) -> bool:
    """Whether the store is there and does not want this one record."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.get_http_status_code() < 500

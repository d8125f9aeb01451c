"""One MLflow run: what it should hold, and how much of that the store has already.

The tracker describes a run, `TrackedRun.sync` brings the store there. Doing it again is harmless:
a step that failed half way, a server that was away, a driver that was killed are all the same case.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

from hpo.tracking.details import Series
from hpo.tracking.stored import DIGEST, MARKER, RunStatus, StoredRun, run_key

Value = tuple[str, float, int, int]
"""A metric: key, value, milliseconds when it was noted (sent twice, it is one row), step."""

_VALUES_PER_REQUEST = 1000  # MLflow's limit, parameters and tags included


class TrackedRun:
    """A run that the study writes: a new one, or one that the store has from before.

    Args:
        name: shown in the UI.
        tags: identity of the run, written when it is created.
        params: written once; MLflow never changes a parameter, so where a continued run has
            another value, the new one becomes the tag ``latest.NAME``.
        stored: the run to continue; None creates one at the first `sync`.
        replaces: id of a run to delete (MLflow can restore it) at the first `sync`.

    Attributes:
        key: what tells it from the study's other runs.
        run_id: its id; None before the store has it.
        status: terminal state that was noted, or None.
        ended: the store has all of it.
        tags: all that was noted.
        stored_tags: those that the store has.
        synced_at: when the store was last asked to take it, by `time.monotonic`.
    """

    def __init__(
        self,
        name: str,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        *,
        stored: StoredRun | None = None,
        replaces: str | None = None,
    ) -> None:
        before = stored or StoredRun("", "")
        self.key = run_key(tags)
        self.run_id = stored.run_id if stored else None
        self.ended = False
        self.status: RunStatus | None = None
        self.tags = dict(tags)
        self.stored_tags = dict(before.tags)
        self.synced_at = time.monotonic()
        self._name = storable(name)
        self._replaces = replaces
        self._began = _now()
        # A clock may go back, and of two values at one step MLflow shows the later one.
        self._latest_at = max(self._began if stored is None else 0, before.latest_at)
        self._live = False
        params = _storable(params)
        self._params = {key: value for key, value in params.items() if key not in before.params}
        changed = {k: v for k, v in params.items() if before.params.get(k, v) != v}
        self._opening_tags = _storable({**tags, **{f"latest.{k}": v for k, v in changed.items()}})
        self._latest = dict(before.metrics)
        self._steps: set[int] | None = None if stored else set()
        self._epochs: dict[int, list[Value]] = {}
        self._last_step = 0
        self._final: dict[str, float] = {}
        self._series: Series = {}
        self._final_tags: dict[str, str] = {}

    @property
    def metric_names(self) -> set[str]:
        """Returns the names of the metrics that the store has of it."""
        return set(self._latest)

    def add_epoch(self, metrics: Mapping[str, Any]) -> None:
        """Notes the numbers of one epoch, at step ``metrics["epoch"]``; each step counts once."""
        step, at = int(metrics[MARKER]), _now()
        if step not in self._epochs and step not in (self._steps or ()):
            values = _numbers(metrics)
            # The marker goes last: a store that has it has the epoch.
            ordered = sorted(values, key=lambda key: key == MARKER)
            self._epochs[step] = [(key, values[key], at, step) for key in ordered]
            self._latest_at = max(self._latest_at, at)
        self._last_step = max(self._last_step, step)

    def finish(
        self,
        status: RunStatus,
        metrics: Mapping[str, Any],
        tags: Mapping[str, str],
        series: Series | None = None,
    ) -> None:
        """Notes the end: metrics stand at the last epoch, values that are the latest are not sent.

        Args:
            status: terminal state of the run.
            metrics: numbers are logged, everything else in the mapping is left out.
            tags: added to the run's, after the metrics: a run that has them is complete.
            series: metrics over steps of their own; they go with the digest among the tags.
        """
        self.status = status
        self.ended = False
        # A millisecond tells the final value from the last epoch's.
        self._latest_at = max(_now(), self._latest_at + 1)
        self._final, self._series = _numbers(metrics), series or {}
        self._final_tags = _storable(tags)
        self.tags |= tags

    def sync(self, client: Any, experiment_id: str) -> None:
        """Brings the store to what this object says.

        Raises:
            MlflowException, OSError: the store failed. Whatever it has not taken is kept.
        """
        if self.ended:
            return
        if self._replaces is not None:
            client.delete_run(self._replaces)
            self._replaces = None
        if self.run_id is None:
            tags = self._opening_tags
            created = client.create_run(
                experiment_id, start_time=self._began, run_name=self._name, tags=tags
            )
            self.run_id = created.info.run_id
            self.stored_tags |= tags
        elif not self._live and self.status is None:
            client.update_run(self.run_id, status="RUNNING")
        self._live = True
        self._send(client)
        if self.status is not None:
            client.set_terminated(self.run_id, self.status, end_time=self._latest_at)
            self.ended = True

    def stored(self) -> StoredRun:
        """Returns what is remembered of a run that the store has all of."""
        return StoredRun(str(self.run_id), str(self.status), self.tags)

    def _send(self, client: Any) -> None:
        """Sends all that waits, in as few requests as possible: the end with the last epochs."""
        if self._epochs and self._steps is None:
            history = client.get_metric_history(self.run_id, MARKER)
            self._steps = {metric.step for metric in history}
            times = [metric.timestamp + 1 for metric in history]
            self._latest_at = max([self._latest_at, *times])
        steps = self._steps or set()
        values = [v for step, epoch in self._epochs.items() if step not in steps for v in epoch]
        if "cell_id" in self.tags and self.status is None and not values:
            return  # the parameters go with the first epochs, or the end
        tags = {**self._opening_tags, **self._final_tags}
        tags = {key: value for key, value in tags.items() if self.stored_tags.get(key) != value}
        if self.status is not None:
            values += self._end(values, tags)
        room = _VALUES_PER_REQUEST - len(self._params) - len(tags)
        while len(values) > room:
            self._log(client, values[:_VALUES_PER_REQUEST], {}, {})
            del values[:_VALUES_PER_REQUEST]
        self._log(client, values, self._params, tags)
        self._params, self._epochs = {}, {}

    def _end(self, before: Iterable[Value], tags: Mapping[str, str]) -> list[Value]:
        """Returns the values of the end that are not the latest already, after those ``before``."""
        latest = self._latest | {key: value for key, value, *_ in before}
        at, step = self._latest_at, self._last_step
        final = self._final.items()
        values = [(key, v, at, step) for key, v in final if not _same(latest.get(key), v)]
        if DIGEST in tags:
            values += [(k, v, at, step) for k, points in self._series.items() for step, v in points]
        return values

    def _log(
        self, client: Any, values: list[Value], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        """Makes one request; the store takes parameters first, then metrics, and tags last."""
        from mlflow.entities import Metric, Param, RunTag

        if not (values or params or tags):
            return
        client.log_batch(
            self.run_id,
            metrics=[Metric(*value) for value in values],
            params=[Param(key, value) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        self._latest |= {key: value for key, value, *_ in values}
        if self._steps is not None:
            self._steps |= {step for key, _, _, step in values if key == MARKER}
        self.stored_tags |= tags


_LONGEST = 5000
"""Characters of a parameter, of which MLflow takes 6000."""


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns parameters for MLflow: dotted names, values as text, long ones cut, None left out."""
    flat: dict[str, str] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif value is not None:
            text = str(value)
            flat[f"{prefix}{key}"] = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return flat


def storable(text: str) -> str:
    """Returns the text as every store takes it: bytes of a name that are no UTF-8 are escaped, and
    NUL is left out."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "")


def _storable(texts: Mapping[str, str]) -> dict[str, str]:
    return {key: storable(text) for key, text in texts.items()}


def _now() -> int:
    return time.time_ns() // 1_000_000


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers among ``metrics``; infinity becomes NaN.

    SQL has no infinity, MLflow writes the largest float instead, and that ruins a chart's axis.
    """
    return {
        key: float(value) if math.isfinite(value) else math.nan
        for key, value in metrics.items()
        if isinstance(value, (int, float))
    }


def _same(before: float | None, now: float) -> bool:
    """Returns whether the values are the same; a NaN is the same as another."""
    return before == now or (before is not None and math.isnan(before) and math.isnan(now))

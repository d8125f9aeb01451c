"""One MLflow run: what it should hold, and how much of that the store has already.

The tracker describes a run, `TrackedRun.sync` brings the store there. Doing it again is harmless:
a step that failed half way, a server that was away, a driver that was killed are all the same case.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hpo.tracking.details import Series
from hpo.tracking.stored import DIGEST, MARKER, RunStatus, StoredRun, run_key

if TYPE_CHECKING:
    from mlflow.entities import Metric

_VALUES_PER_BATCH = 1000  # MLflow's limit for one request


@dataclass(frozen=True)
class _Values:
    step: int
    # Taken when the values were noted, not when they are sent: sent twice, they are one row.
    timestamp: int
    values: Mapping[str, float]


class TrackedRun:
    """A run that the study writes: a new one, or one that the store has from before.

    Args:
        name: shown in the UI.
        tags: identity of the run, written when it is created.
        params: written once; MLflow never changes a parameter, so where a continued run has
            another value, the new one becomes the tag ``latest.NAME``.
        stored: the run to continue; None creates one at the first `sync`.
        replaces: id of a run to delete (MLflow can restore it) at the first `sync`.
        params_later: parameters go with the first epochs, or the end, which saves a request.

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
        params_later: bool = False,
    ) -> None:
        self.key = run_key(tags)
        self.run_id = stored.run_id if stored else None
        self.ended = False
        self.status: RunStatus | None = None
        self.tags = dict(tags)
        self.stored_tags = dict(stored.tags) if stored else {}
        self.synced_at = time.monotonic()
        before = stored or StoredRun("", "")
        latest = {
            f"latest.{key}": value
            for key, value in params.items()
            if before.params.get(key, value) != value
        }
        self._name = name
        self._replaces = replaces
        self._began = _now()
        # A clock may go back, and of two values at one step MLflow shows the later one.
        self._latest_at = max(self._began if stored is None else 0, before.latest_at)
        self._live = False
        self._params_later = params_later
        self._params = {key: value for key, value in params.items() if key not in before.params}
        self._tags = self._news({**tags, **latest})
        self._latest = dict(before.metrics)
        self._steps: set[int] | None = None if stored else set()
        self._noted: set[int] = set()
        self._pending: list[_Values] = []
        self._final = _Values(0, 0, {})
        self._series: Series = {}
        self._final_tags: dict[str, str] = {}

    def add_epoch(self, metrics: Mapping[str, Any]) -> None:
        """Notes the numbers of one epoch, at step ``metrics["epoch"]``; each step counts once."""
        step = int(metrics[MARKER])
        if step not in self._noted:
            at = _now()
            self._noted.add(step)
            self._pending.append(_Values(step, at, _numbers(metrics)))
            self._latest_at = max(self._latest_at, at)

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
        step = max(self._noted, default=0)
        self._final = _Values(step, _now(), _numbers(metrics))
        self._final_tags, self._series = dict(tags), series or {}
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
        self._open(client, experiment_id)
        self._send(client)
        if self.status is not None:
            at = self._end_at
            client.set_terminated(self.run_id, self.status, end_time=at)
            self.ended = True
            self._latest_at = at

    def _open(self, client: Any, experiment_id: str) -> None:
        if self.run_id is None:
            created = client.create_run(
                experiment_id, start_time=self._began, run_name=self._name, tags=self._tags
            )
            self.run_id = created.info.run_id
            self.stored_tags |= self._tags
            self._tags = {}
        elif not self._live and self.status is None:
            client.update_run(self.run_id, status="RUNNING")
        self._live = True

    def _news(self, tags: Mapping[str, str]) -> dict[str, str]:
        return {key: value for key, value in tags.items() if self.stored_tags.get(key) != value}

    @property
    def _end_at(self) -> int:
        # A millisecond tells the final value from the last epoch's.
        return max(self._final.timestamp, self._latest_at + 1)

    def _send(self, client: Any) -> None:
        """Sends all that waits, in as few requests as possible: the end with the last epochs."""
        fresh = self._fresh_epochs(client)
        if self._params_later and self.status is None and not fresh:
            return
        *full, last = [*_batches(fresh)] or [[]]
        final = self._final_metrics(fresh) if self.status is not None else []
        tags = dict(self._tags)
        if self.status is not None:
            tags |= self._news(self._final_tags)
        values = sum(len(epoch.values) for epoch in last)
        if values + len(final) + len(tags) + len(self._params) > _VALUES_PER_BATCH:
            full, last = [*full, last], []
        for batch in full:
            self._log(client, batch)
        self._log(client, last, final, self._params, tags)
        self._params, self._tags = {}, {}
        self._pending = []

    def _fresh_epochs(self, client: Any) -> list[_Values]:
        """Returns the epochs noted that the store has not."""
        if self._pending and self._steps is None:
            history = client.get_metric_history(self.run_id, MARKER)
            self._steps = {metric.step for metric in history}
            times = [metric.timestamp for metric in history]
            self._latest_at = max([self._latest_at, *times])
        return [epoch for epoch in self._pending if epoch.step not in (self._steps or ())]

    def _final_metrics(self, fresh: Iterable[_Values]) -> list[Metric]:
        """Returns those of the end, after these epochs, without values that are the latest."""
        from mlflow.entities import Metric

        latest = dict(self._latest)
        for epoch in fresh:
            latest |= epoch.values
        at, step = self._end_at, self._final.step
        metrics = [
            Metric(key, value, at, step)
            for key, value in self._final.values.items()
            if not _same(latest.get(key), value)
        ]
        if DIGEST in self._news(self._final_tags):
            metrics += [
                Metric(key, value, at, step)
                for key, values in self._series.items()
                for step, value in values
            ]
        return metrics

    def _log(
        self,
        client: Any,
        epochs: Sequence[_Values],
        final: Sequence[Metric] = (),
        params: Mapping[str, str] = MappingProxyType({}),
        tags: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Makes one request; the store takes parameters first, then metrics, and tags last."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = [
            Metric(key, value, epoch.timestamp, epoch.step)
            for epoch in epochs
            for key, value in epoch.values.items()
        ]
        metrics += final
        if not (metrics or params or tags):
            return
        client.log_batch(
            self.run_id,
            metrics=metrics,
            params=[Param(key, value) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        if self._steps is not None:
            self._steps |= {epoch.step for epoch in epochs}
        self._latest |= {metric.key: metric.value for metric in metrics}
        self.stored_tags |= tags


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns parameters for MLflow: dotted names, values as text, None left out."""
    flat: dict[str, str] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = str(value)
    return flat


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


def _batches(epochs: Iterable[_Values]) -> Iterator[list[_Values]]:
    batch: list[_Values] = []
    size = 0
    for epoch in epochs:
        if batch and size + len(epoch.values) > _VALUES_PER_BATCH:
            yield batch
            batch, size = [], 0
        batch.append(epoch)
        size += len(epoch.values)
    if batch:
        yield batch

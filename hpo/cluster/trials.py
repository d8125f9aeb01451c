"""Trials of somebody else's training code, several at a time, each in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.exceptions import RayError

from hpo.cells.trials import Function, Key, Notify, Runner, Trial, run_trial
from hpo.cluster.sendable import check_sendable
from hpo.cluster.session import Demand, session

REPORT_SECONDS = 0.5
"""Between two reports of a trial that the driver hears of while it runs."""


class _Latest:
    """An actor that keeps the latest report of each running trial, until the driver takes it."""

    def __init__(self) -> None:
        self._latest: dict[Key, tuple[int, Mapping[str, float]]] = {}

    def put(self, key: Key, step: int, metrics: Mapping[str, float]) -> None:
        self._latest[key] = step, metrics

    def take(self) -> dict[Key, tuple[int, Mapping[str, float]]]:
        taken, self._latest = self._latest, {}
        return taken


def _run(name: str, function: Function, seed: int, latest: Any) -> Trial:
    """Runs a trial in a worker."""
    last = 0.0

    def notify(key: Key, step: int, metrics: Mapping[str, float]) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_SECONDS:
            last = time.monotonic()
            latest.put.remote(key, step, metrics)

    return run_trial(name, function, seed, notify)


@contextmanager
def under_ray(
    functions: Mapping[str, Function],
    workers: int | None,
    threads: int,
    gpus: float,
    notify: Notify,
) -> Iterator[Runner]:
    """Yields a runner that runs several trials at a time, each in a process of its own.

    Raises:
        StudyError: a function cannot be sent to a process, there is no Ray cluster, or no room for
            a trial on it.
    """
    check_sendable({f"function {name!r}": function for name, function in functions.items()})
    demand = Demand(address=None, workers=workers, threads=threads, gpus=gpus, data_bytes=0)
    with session(demand) as cluster:
        stored = {name: ray.put(function) for name, function in functions.items()}
        settings = {"num_cpus": threads, "num_gpus": gpus, "max_retries": 1, "max_calls": 1}
        task: Any = ray.remote(**settings)(_run)
        actor: Any = ray.remote(num_cpus=0)(_Latest)
        latest = actor.remote()

        def run(keys: Sequence[Key]) -> Iterator[Trial]:
            waiting, running = list(keys), dict[Any, Key]()
            while waiting or running:
                while waiting and len(running) < cluster.workers:
                    name, seed = waiting.pop(0)
                    running[task.remote(name, stored[name], seed, latest)] = (name, seed)
                ended, _ = ray.wait(list(running), timeout=1.0)  # so that Ctrl-C is heard
                with suppress(RayError):  # what is told meanwhile is no result
                    for key, (step, metrics) in ray.get(latest.take.remote()).items():
                        notify(key, step, metrics)
                for reference in ended:
                    name, seed = running.pop(reference)
                    try:
                        yield ray.get(reference)
                    except RayError as error:
                        line = str(error).strip().splitlines()[0]
                        yield Trial(name, seed, None, 0.0, f"its process died: {line}")

        yield run

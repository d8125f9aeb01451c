"""Trials of somebody else's training code, several at a time, each in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from hpo.cells.trials import Function, Key, Runner, Trial, run_trial
from hpo.cluster.session import Demand, session


@contextmanager
def under_ray(
    functions: Mapping[str, Function], workers: int | None, threads: int, gpus: float
) -> Iterator[Runner]:
    """Yields a runner that runs several trials at a time, each in a process of its own.

    Raises:
        StudyError: there is no Ray cluster, or no room for a trial on it.
    """
    demand = Demand(address=None, workers=workers, threads=threads, gpus=gpus, data_bytes=0)
    with session(demand) as cluster:
        stored = {name: ray.put(function) for name, function in functions.items()}
        settings = {"num_cpus": threads, "num_gpus": gpus, "max_retries": 1, "max_calls": 1}
        task: Any = ray.remote(**settings)(run_trial)

        def run(keys: Sequence[Key]) -> Iterator[Trial]:
            waiting, running = list(keys), dict[Any, Key]()
            while waiting or running:
                while waiting and len(running) < cluster.workers:
                    name, seed = waiting.pop(0)
                    running[task.remote(name, stored[name], seed)] = (name, seed)
                ended, _ = ray.wait(list(running), timeout=1.0)  # so that Ctrl-C is heard
                for reference in ended:
                    name, seed = running.pop(reference)
                    try:
                        yield ray.get(reference)
                    except RayError as error:
                        line = str(error).strip().splitlines()[0]
                        yield Trial(name, seed, None, 0.0, f"its process died: {line}")

        yield run

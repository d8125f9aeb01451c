"""Jobs that take known times, packed onto so many machines: how long until the last has ended."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timed:
    """A job of one machine.

    Attributes:
        key: unique among the jobs.
        seconds: how long it takes, at least 0.
        after: key of the job that must have ended before, or None.
    """

    key: str
    seconds: float
    after: str | None = None


def chains(jobs: Sequence[Timed]) -> dict[str, float]:
    """Seconds from the start of each job to the end of the last one that waits for it, by key.

    The largest is a time that no number of machines goes below.

    Raises:
        ValueError: two jobs have one key, a job waits for one that is not there, or jobs wait for
            each other.
    """
    by_key = {job.key: job for job in jobs}
    if len(by_key) != len(jobs):
        raise ValueError("jobs must have keys of their own; two of these have the same")
    found = {job.key: job.seconds for job in jobs}
    for job in jobs:
        length, at, steps = job.seconds, job, 0
        while at.after is not None:
            if at.after not in by_key:
                raise ValueError(f"job {at.key} waits for {at.after}, which is not among the jobs")
            at, steps = by_key[at.after], steps + 1
            if steps > len(jobs):
                raise ValueError(f"job {job.key} waits for itself")
            length += at.seconds
            found[at.key] = max(found[at.key], length)
    return found


def makespan(jobs: Sequence[Timed], machines: int) -> float:
    """Seconds until all jobs have ended: a free machine takes the ready job with the longest chain.

    Longest first is within 4/3 of the best schedule where no job waits for another (Graham 1969,
    "Bounds on multiprocessing timing anomalies").

    Raises:
        ValueError: no machine, or as `chains`.
    """
    if machines < 1:
        raise ValueError(f"machines must be at least 1, got {machines}")
    length = chains(jobs)
    waiting: dict[str, list[Timed]] = {}
    ready: list[tuple[float, str, float]] = []
    for job in jobs:
        if job.after is None:
            heapq.heappush(ready, (-length[job.key], job.key, job.seconds))
        else:
            waiting.setdefault(job.after, []).append(job)
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < machines:
            _, key, seconds = heapq.heappop(ready)
            heapq.heappush(running, (now + seconds, key))
        now, ended = heapq.heappop(running)
        for job in waiting.pop(ended, []):
            heapq.heappush(ready, (-length[job.key], job.key, job.seconds))
    return now

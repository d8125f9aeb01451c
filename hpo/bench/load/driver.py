"""This module is one process of a load.

    python -m hpo.bench.load.driver study --seeds 1000 --output DIR [any other flag of a study]
    python -m hpo.bench.load.driver alone --seeds 20 --output DIR [any other flag of a study]

The first is a study that notes what its process takes. The second runs the same trainings in a bare
loop, without Ray, MLflow, checkpoints and records, and prints the mean seconds of one.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hpo.bench.load.flags import STUDY, USAGE
from hpo.cells.cell import Cell
from hpo.cells.record import CellRecord
from hpo.cells.summary import SummaryRow
from hpo.cluster.trainable import train
from hpo.command_line import parse
from hpo.run import run_study
from hpo.run.data import prepare
from hpo.storage.atomic import write_atomically
from hpo.study.named_rows import NONE
from hpo.study.plan import source_key
from hpo.tracking.tracker import StudyTracker

ROWS = (NONE,)
"""The study's only row, so that each seed is a cell."""

EVERY = 50
"""Cells between two samples."""


class MeteredTracker(StudyTracker):
    """An MLflow writer that samples what its process takes, and leaves the samples in USAGE."""

    def __init__(self, uri: str | None, *, output: Path, **options: Any) -> None:
        self._samples: list[dict[str, float]] = []
        self._running: set[str] = set()
        self._begun = 0.0, 0.0
        self._store = 0.0
        super().__init__(uri, output=output, **options)

    def start_cell(self, cell: Cell) -> None:
        if not self._samples:
            self._begun = time.perf_counter(), time.process_time()
            self._samples.append(self._sample(0))
        self._running.add(cell.id)
        with self._timed():
            super().start_cell(cell)

    def epoch(self, cell_id: str, metrics: Mapping[str, float | None]) -> None:
        with self._timed():
            super().epoch(cell_id, metrics)

    def end_cell(self, record: CellRecord) -> None:
        with self._timed():
            super().end_cell(record)
        if record.cell.id in self._running:  # not one that was finished before
            self._running.remove(record.cell.id)
            cells = self._samples[-1]["cells"]
            if cells % EVERY:
                self._samples.pop()
            self._samples.append(self._sample(cells + 1))

    def summarise(self, rows: Iterable[SummaryRow], *, whole: bool = True) -> None:
        if self._samples:
            text = json.dumps({"samples": self._samples}, indent=1)
            write_atomically(self._output / USAGE, text)
        super().summarise(rows, whole=whole)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._store += time.perf_counter() - begun

    def _sample(self, cells: float) -> dict[str, float]:
        return {
            "cells": cells,
            "seconds": time.perf_counter() - self._begun[0],
            "memory": resident_bytes(),
            "processor": time.process_time() - self._begun[1],
            "store": self._store,
        }


def resident_bytes() -> int:
    """Returns the memory of this process in use, or at its peak where the system has no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


def seconds_alone(arguments: Sequence[str]) -> float:
    """Trains the cells of a study with these flags in a bare loop, at least two.

    Returns:
        The mean seconds of a cell. The first one is left out: it loads what a process loads once.
    """
    options = parse(STUDY, "", arguments)
    plan, sources = prepare(STUDY, ROWS, options)
    ended = []
    for cell in plan.fixed_cells():
        source = sources[source_key(cell.training)]
        train(cell, source=source, device=options.device, threads=options.threads)
        ended.append(time.perf_counter())
    return (ended[-1] - ended[0]) / (len(ended) - 1)


if __name__ == "__main__":
    mode, *flags = sys.argv[1:]
    if mode == "study":
        sys.exit(run_study(STUDY, ROWS, "", flags, tracker=MeteredTracker))
    print(seconds_alone(flags))

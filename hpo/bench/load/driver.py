"""One study of a load, in a process of its own that notes what it takes.

python -m hpo.bench.load.driver --seeds 1000 --output DIR [any other flag of a study]
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.policies import NoMix
from hpo.cells.cell import Cell
from hpo.cells.record import CellRecord
from hpo.cells.summary import SummaryRow
from hpo.run import run_study
from hpo.storage.atomic import write_atomically
from hpo.study.rows import Row, StudyRow
from hpo.tracking.tracker import StudyTracker

STUDY = "load"
ROWS = (StudyRow(Row("none", "No MixUp", "", "none"), NoMix()),)
"""Of the study: each seed is a cell."""

EVERY = 50
"""Cells between two samples of the memory."""

_FILE = "load-usage.json"


@dataclass(frozen=True)
class Sample:
    """The driver when so many cells had ended.

    Attributes:
        cells: trained by this process.
        seconds: since its first cell was started.
        memory: resident bytes of the driver alone; Ray's processes are others.
        processor: seconds of CPU time that the driver has used since its first cell.
        store: seconds of these spent in the MLflow writer.
    """

    cells: int
    seconds: float
    memory: int
    processor: float
    store: float


@dataclass(frozen=True)
class Usage:
    """What the driver of a study took between its first cell's start and its last one's end."""

    samples: tuple[Sample, ...]

    @property
    def end(self) -> Sample:
        """The last sample."""
        return self.samples[-1]

    @property
    def bytes_per_cell(self) -> float:
        """Slope of the memory over cells, fitted; NaN where there are too few samples.

        The first fifth is left out: there, what every process loads once is loaded.
        """
        late = [sample for sample in self.samples if sample.cells >= self.end.cells / 5]
        return slope([sample.cells for sample in late], [sample.memory for sample in late])

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Usage:
        """The inverse of `dataclasses.asdict`."""
        return cls(tuple(Sample(**sample) for sample in data["samples"]))


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the least-squares line through the points; NaN with fewer than three."""
    if len(x) < 3:
        return float("nan")
    middle = sum(x) / len(x)
    rise = sum((a - middle) * b for a, b in zip(x, y, strict=True))
    return rise / sum((a - middle) ** 2 for a in x)


def resident_bytes() -> int:
    """Memory of this process in use; where the system does not tell that, at its peak."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


def stored_usage(output: Path) -> Usage | None:
    """What the last driver of this output folder took, or None where none has trained all."""
    path = output / _FILE
    return Usage.from_dict(json.loads(path.read_text())) if path.exists() else None


def forget_usage(output: Path) -> None:
    """Remove what `stored_usage` reads."""
    (output / _FILE).unlink(missing_ok=True)


class MeteredTracker(StudyTracker):
    """The MLflow writer of a study, with a clock; it leaves what `stored_usage` reads."""

    def __init__(self, uri: str | None, *, output: Path, **options: Any) -> None:
        self._running: set[str] = set()
        self._samples: list[Sample] = []
        self._last: Sample | None = None
        self._begun: tuple[float, float] | None = None
        self._cells = 0
        self._store = 0.0
        super().__init__(uri, output=output, **options)

    def start_cell(self, cell: Cell) -> None:
        if self._begun is None:
            self._begun = time.perf_counter(), time.process_time()
            self._samples.append(self._sample())
        self._running.add(cell.id)
        self._timed(super().start_cell, cell)

    def epoch(self, cell_id: str, metrics: Mapping[str, float | None]) -> None:
        self._timed(super().epoch, cell_id, metrics)

    def end_cell(self, record: CellRecord) -> None:
        self._timed(super().end_cell, record)
        if record.cell.id in self._running:  # not one that is kept from before
            self._running.remove(record.cell.id)
            self._cells += 1
            self._last = self._sample()
            if self._cells % EVERY == 0:
                self._samples.append(self._last)

    def summarise(self, rows: Iterable[SummaryRow]) -> None:
        if self._last is not None:
            if self._last is not self._samples[-1]:
                self._samples.append(self._last)
            usage = asdict(Usage(tuple(self._samples)))
            write_atomically(self._output / _FILE, json.dumps(usage, indent=1))
        super().summarise(rows)

    def _timed(self, action: Callable[..., None], *arguments: Any) -> None:
        begun = time.perf_counter()
        try:
            action(*arguments)
        finally:
            self._store += time.perf_counter() - begun

    def _sample(self) -> Sample:
        wall, processor = self._begun or (0.0, 0.0)
        return Sample(
            self._cells,
            time.perf_counter() - wall,
            resident_bytes(),
            time.process_time() - processor,
            self._store,
        )


if __name__ == "__main__":
    sys.exit(run_study(STUDY, ROWS, __doc__, tracker=MeteredTracker))

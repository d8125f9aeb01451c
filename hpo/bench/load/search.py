"""This module times a search whose trials go in rounds, beside the same with one at a time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.lazy import pandas as pd
from hpo.bench.load.flags import STUDY, study_flags
from hpo.cells.cell import Cell
from hpo.cells.record import CellRecord
from hpo.cells.store import CellStore
from hpo.run import run_study
from hpo.storage.atomic import write_atomically, write_csv
from hpo.study.named_rows import SEARCHED
from hpo.tracking.tracker import StudyTracker

if TYPE_CHECKING:
    from torch import Tensor

TRIALS = 12
"""Trials of the search."""

_DRIVER = (sys.executable, "-m", "hpo.bench.load.search")
_TIMES = "load-times.json"


def asleep(x: Tensor, seconds: float) -> Tensor:
    """Returns a batch as it is, after so many seconds: a training that takes its time and no
    processor."""
    time.sleep(seconds)
    return x


class TimedTracker(StudyTracker):
    """An MLflow writer that notes when the first trial was handed out and the last one ended."""

    def __init__(self, uri: str | None, *, output: Path, **options: Any) -> None:
        self._times: list[float] = []
        super().__init__(uri, output=output, **options)

    def start_cell(self, cell: Cell) -> None:
        if cell.purpose == "search":
            self._times.append(time.perf_counter())
        super().start_cell(cell)

    def end_cell(self, record: CellRecord) -> None:
        super().end_cell(record)
        if record.cell.purpose == "search" and self._times:
            seconds = time.perf_counter() - self._times[0]
            write_atomically(self._output / _TIMES, json.dumps(seconds))


def run_search(options: Namespace) -> int:
    """Runs the search in rounds of `options.search` and one trial at a time, on as many workers.

    Each has one step of a training for a trial, in which it sleeps `options.asleep` seconds. Prints
    and writes a table of the seconds from the first trial's start to the last one's end.

    Returns:
        The exit status: 0 if both searches came to their end.
    """
    lines = []
    for parallel in (1, options.search):
        folder = options.output / f"{STUDY}-search-{parallel}"
        flags = [*study_flags(options, folder, seeds=1), "--search-trials", str(TRIALS)]
        flags += ["--search-parallel", str(parallel), "--workers", str(options.search)]
        flags += ["--augment", f"{__name__}:asleep?seconds={options.asleep}", "--fresh"]
        begun = time.perf_counter()
        folder.mkdir(exist_ok=True)
        with open(folder / "log.txt", "w") as log:
            print(f"{STUDY}: {parallel} at a time, see {folder / 'log.txt'}", file=sys.stderr)
            if subprocess.run([*_DRIVER, *flags], stdout=log, stderr=log).returncode:
                print(f"{STUDY}: {folder.name} failed; see its log.txt", file=sys.stderr)
                return 1
        lines.append(_line(folder, parallel, time.perf_counter() - begun, options))
    frame = pd.DataFrame(lines)
    for whole in ("search_seconds", "study_seconds"):
        frame[whole.replace("seconds", "ratio")] = frame[whole] / frame[whole].iloc[0]
    write_csv(options.output / f"{STUDY}-search.csv", frame)
    print(frame.to_string(index=False))
    return 0


def _line(folder: Path, parallel: int, seconds: float, options: Namespace) -> dict[str, float]:
    """Returns what became of one search, as a line of the CSV."""
    records = CellStore(folder).records()
    final = next(record for record in records if record.cell.purpose == "final")
    return {
        "parallel": parallel,
        "workers": options.search,
        "trials": sum(record.cell.purpose == "search" for record in records),
        "asleep_seconds": options.asleep,
        "alpha": final.cell.training.policy.to_dict()["alpha"],
        "search_seconds": json.loads((folder / _TIMES).read_text()),
        "study_seconds": seconds,
    }


if __name__ == "__main__":
    sys.exit(run_study(STUDY, (SEARCHED,), "", sys.argv[1:], tracker=TimedTracker))

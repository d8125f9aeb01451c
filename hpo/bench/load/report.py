"""Table and figure of a load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from hpo.bench.load.driver import Usage
from hpo.report.markdown import padded_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIB = 2**20


@dataclass(frozen=True)
class Found:
    """What became of one study of a load.

    Attributes:
        name: of the study's folder.
        cells: that it was to train.
        finished: records with the status "finished".
        runs: of cells in MLflow, those that are deleted left out.
        duplicates: of these, the ones beyond the first of their cell.
        unended: of these, the ones in no terminal state.
        training_seconds: of all epochs, as the records have it.
        workers: cells trained at a time.
        alone: seconds of one training in a bare loop, with as many processes at a time.
        usage: of its driver; None where it came to no end.
    """

    name: str
    cells: int
    finished: int
    runs: int
    duplicates: int
    unended: int
    training_seconds: float
    workers: int
    alone: float
    usage: Usage | None

    @property
    def whole(self) -> bool:
        """Whether every cell has its record and one run that has ended."""
        ended = not self.duplicates and not self.unended
        return self.finished == self.runs == self.cells and ended and self.usage is not None

    @property
    def overhead(self) -> float:
        """Seconds of a worker for each cell, beyond those that the training alone takes."""
        if self.usage is None:
            return float("nan")
        return self.workers * self.usage.end.seconds / self.usage.end.cells - self.alone


def build_table(studies: Sequence[Found]) -> pd.DataFrame:
    """One row for each study; times in seconds, memory in bytes, `_cell` is for each cell."""
    return pd.DataFrame([_line(study) for study in studies])


def _line(study: Found) -> dict[str, object]:
    usage = study.usage
    line: dict[str, object] = {
        "study": study.name,
        "cells": study.cells,
        "finished": study.finished,
        "lost": study.cells - study.finished,
        "mlflow_runs": study.runs,
        "duplicated_runs": study.duplicates,
        "runs_not_ended": study.unended,
        "workers": study.workers,
        "training_seconds": study.training_seconds,
        "alone_seconds_cell": study.alone,
    }
    if usage is not None:
        end = usage.end
        line |= {
            "measured_cells": end.cells,
            "seconds": end.seconds,
            "overhead_seconds_cell": study.overhead,
            "driver_cpu_seconds_cell": end.processor / end.cells,
            "mlflow_seconds_cell": end.store / end.cells,
            "mlflow_share": end.store / end.seconds,
            "memory_start": usage.samples[0].memory,
            "memory_end": end.memory,
            "memory_cell": usage.bytes_per_cell,
        }
    return line


def samples_table(studies: Sequence[Found]) -> pd.DataFrame:
    """One row for each sample of each study's driver."""
    lines = [
        {
            "study": study.name,
            "cells": sample.cells,
            "seconds": sample.seconds,
            "memory": sample.memory,
            "driver_cpu_seconds": sample.processor,
            "mlflow_seconds": sample.store,
        }
        for study in studies
        for sample in (study.usage.samples if study.usage is not None else ())
    ]
    return pd.DataFrame(lines)


def to_markdown(studies: Sequence[Found]) -> str:
    """The table for people, and what its columns say."""
    header = (
        "study", "cells", "lost", "runs", "twice", "open", "time", "alone", "overhead",
        "driver CPU", "MLflow", "share", "memory", "a cell",
    )  # fmt: skip
    lines = [
        [
            s.name,
            *(str(n) for n in (s.cells, s.cells - s.finished, s.runs, s.duplicates, s.unended)),
            *_measured(s),
        ]
        for s in studies
    ]
    return f"{padded_table(header, lines)}\n\n{_LEGEND}"


_LEGEND = """\
lost: cells without a record; runs: of cells in MLflow, twice: those beyond one for a cell, open: in
no terminal state. time: from the first cell's start to the last one's end. For each cell, in
milliseconds: alone, its training in a bare loop with as many processes at a time; overhead, what a
worker takes beyond that; driver CPU, of the driver's process; MLflow, of the driver's time in the
MLflow writer, and that as a share of the whole time. memory: resident MiB of the driver's process
before the first cell and after the last; a cell: KiB, the fitted slope without the first fifth."""


def _measured(study: Found) -> list[str]:
    if study.usage is None:
        return ["–"] * 8
    usage, end = study.usage, study.usage.end
    per_cell = (study.alone, study.overhead, end.processor / end.cells, end.store / end.cells)
    return [
        f"{end.seconds:.0f} s",
        *(f"{1000 * seconds:.0f}" for seconds in per_cell),
        f"{100 * end.store / end.seconds:.0f} %",
        f"{usage.samples[0].memory / MIB:.0f} → {end.memory / MIB:.0f}",
        "–"
        if usage.bytes_per_cell != usage.bytes_per_cell
        else f"{usage.bytes_per_cell / 1024:.1f}",
    ]


def load_figure(studies: Sequence[Found]) -> Figure:
    """Two panels with a line for each study: memory of the driver, and seconds, over cells.

    Raises:
        ValueError: no driver came to its end.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = [(study, study.usage) for study in studies if study.usage is not None]
    if not measured:
        raise ValueError("nothing to draw: no driver came to its end")
    figure = Figure(figsize=(11.0, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    memory, seconds = figure.subplots(1, 2)
    for study, usage in measured:
        cells = [sample.cells for sample in usage.samples]
        memory.plot(cells, [sample.memory / MIB for sample in usage.samples], label=study.name)
        seconds.plot(cells, [sample.seconds for sample in usage.samples], label=study.name)
    memory.set_ylabel("memory of the driver (MiB)")
    seconds.set_ylabel("seconds")
    for axes in (memory, seconds):
        axes.set_xlabel("cells")
        axes.set_xlim(left=0)
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
        axes.spines[["top", "right"]].set_visible(False)
    if len(measured) > 1:
        memory.legend(frameon=False, loc="lower right")
    return figure

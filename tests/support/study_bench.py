"""A study on a store, driven by a loop that makes results up: no Ray, no training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from core.data import Source
from hpo.cells.cell import Cell
from hpo.cells.record import CellRecord, Status
from hpo.cells.result import Result
from hpo.cells.store import CellStore
from hpo.report.table import build_table
from hpo.study.plan import Plan, SourceKey
from hpo.study.progress import Progress
from hpo.study.study_run import StudyRun

MadeUp = tuple[list[dict[str, float]], Status, Result]
"""The epochs of a training, how it ended, its result."""


class Tracker:
    """Notes what the study tells MLflow."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.epochs: list[tuple[str, int]] = []
        self.ended: list[CellRecord] = []

    def start_cell(self, cell: Cell) -> None:
        self.started.append(cell.id)

    def epoch(self, cell_id: str, metrics: Mapping[str, float]) -> None:
        assert cell_id in self.started
        self.epochs.append((cell_id, int(metrics["epoch"])))

    def end_cell(self, record: CellRecord) -> None:
        self.ended.append(record)


class StudyBench:
    """A study whose trainings `made_up` makes up; `drive(events)` leaves off as a kill does.

    One event is a cell handed out, a report of epochs or an ending.
    """

    def __init__(
        self,
        output: Path,
        plan: Plan,
        made_up: Callable[[Cell], MadeUp],
        data: str = "d0",
        sources: Mapping[SourceKey, Source] | None = None,
    ):
        self.plan = plan
        self.store = CellStore(output)
        self.tracker = Tracker()
        self.progress = Progress()
        self.progress.workers = 3
        data_of = dict.fromkeys(plan.datasets, data)
        tracker: Any = self.tracker
        self.run = StudyRun(plan, self.store, tracker, self.progress, data_of, sources)
        self.cells: list[Cell] = []
        """Handed out, in this order."""
        self._made_up = made_up

    def drive(
        self, events: int | None = None, *, workers: int = 3, bundle: int = 1, again: bool = False
    ) -> bool:
        """Returns whether the study came to its end before the events ran out.

        Args:
            events: how many; None is no limit.
            workers: cells trained at a time.
            bundle: epochs in a report.
            again: every report tells all epochs so far.
        """
        happening = self._events(workers, bundle, again)
        for number, _ in enumerate(happening, 1):
            if number == events:
                return False
        assert self.run.finished
        return True

    def _events(self, workers: int, bundle: int, again: bool) -> Iterator[None]:
        running: dict[Cell, Iterator[None]] = {}
        while True:
            while len(running) < workers and (cell := self.run.next()) is not None:
                trials = [self.plan.search_key(c) for c in running if c.purpose == "search"]
                assert trials.count(self.plan.search_key(cell)) < self.plan.search.parallel
                self.cells.append(cell)
                running[cell] = self._train(cell, bundle, again)
                yield
            if not running:
                return
            for cell, training in list(running.items()):
                if next(training, "ended") == "ended":
                    del running[cell]
                yield

    def _train(self, cell: Cell, bundle: int, again: bool) -> Iterator[None]:
        history, status, result = self._made_up(cell)
        for start in range(0, len(history), bundle):
            if self.run.report(cell.id, history[0 if again else start : start + bundle]):
                return
            yield
        error = None if status == "finished" else f"it {status}"
        self.run.end(cell.id, status, result, error, {"device": "made up"})

    @property
    def records(self) -> list[dict[str, Any]]:
        return [record.to_dict() for record in self.run.records]

    @property
    def table(self) -> pd.DataFrame:
        rows = [row.row for row in self.plan.rows]
        return build_table(self.run.records, rows, self.plan.datasets)


def killed_at_any_moment(
    output: Path, bench_on: Callable[[Path], StudyBench]
) -> Iterator[tuple[StudyBench, StudyBench, set[str]]]:
    """Kills a study after each of its events and goes on, with other numbers of workers.

    It must end as one that nothing disturbed, and train nothing twice.

    Args:
        output: a folder for each kill is made in it.
        bench_on: makes the study in such a folder.

    Yields:
        The study that nothing disturbed, the one that went on, and the ids that the kill left.
    """
    whole = bench_on(output / "whole")
    assert whole.drive()
    expected, moments = whole.records, 0
    while not bench_on(folder := output / f"kill-{moments}").drive(moments + 1):
        moments += 1
        stored = {record.cell.id for record in CellStore(folder).records()}
        again = bench_on(folder)
        assert again.drive(workers=1 + moments % 4)
        assert again.records == expected
        ids = [cell.id for cell in again.cells]
        assert len(ids) == len(set(ids))
        assert not stored & set(ids)
        yield whole, again, stored

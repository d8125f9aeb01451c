"""A study as it runs: which cell is next, what became of each, what is still missing.

`StudyRun` knows nothing of Ray: it hands out cells, takes in epochs and endings, keeps records,
tracking and progress. `hpo.cluster.runner` connects it to Ray Tune.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hpo.cells.cell import Cell
from hpo.cells.record import CellRecord, Status
from hpo.cells.result import PartialResult, Result
from hpo.cells.store import CellStore, StoreError
from hpo.search.drive import replay
from hpo.search.protocol import Search, SearchError
from hpo.search.space_search import SpaceSearch
from hpo.study.filtering import suspected
from hpo.study.plan import Plan, SearchKey, SourceKey
from hpo.study.progress import Progress
from hpo.study.rows import StudyRow
from hpo.tracking.tracker import StudyTracker

if TYPE_CHECKING:
    from core.data import Source

Epoch = Mapping[str, float]


class StudyError(RuntimeError):
    """The study cannot go on. The message says why and what to do."""


class StudyRun:
    """A `StudyRun` is one invocation of a study.

    Cells whose record is in the store are not trained again; a search takes such trials' epochs
    from their records and so comes to the same decisions.

    Args:
        plan: what to train.
        store: where records are.
        tracker: the MLflow writer.
        progress: the progress line.
        fingerprints: what the data of each data set are recognized by; a stored cell that was
            trained on others is refused.
        sources: the data, which rows need that are filtered by what others predict.
    """

    def __init__(
        self,
        plan: Plan,
        store: CellStore,
        tracker: StudyTracker,
        progress: Progress,
        fingerprints: Mapping[str, str],
        sources: Mapping[SourceKey, Source] | None = None,
    ):
        self.plan = plan
        self._fingerprints = fingerprints
        self._sources = sources or {}
        self._store = store
        self._tracker = tracker
        self._progress = progress
        self._epochs: dict[str, list[Epoch]] = {}
        self._running: dict[str, Cell] = {}
        self._waiting: Cell | None = None
        self._stored: set[str] = set()
        self._lost: set[tuple[str, str, int]] = set()
        """Filtered cells that cannot be: row, data set, seed."""
        self._crashed: dict[str, CellRecord] = {}
        progress.total = plan.size
        self._searches = plan.open_searches()
        self._given_up: dict[SearchKey, Search] = {}
        self._trials: Counter[SearchKey] = Counter()
        self._queue: list[Cell] = []
        first = [cell for cell in plan.fixed_cells() if not self._keep(cell)]
        self._queue = first + self._queue

    @property
    def records(self) -> list[CellRecord]:
        """Returns what became of the cells so far, sorted by id.

        Crashed ones are not in the store and are tried again next time. The others are read anew:
        in memory, those of a long study would add up.
        """
        records = dict(self._crashed)
        for cell_id in self._stored:
            record = self._store.load(cell_id)
            if record is None:
                raise StoreError(
                    f"{self._store.place(cell_id)} is gone; run the same command again to "
                    "train that cell again"
                )
            records[cell_id] = record
        return [records[cell_id] for cell_id in sorted(records)]

    @property
    def crashed(self) -> bool:
        """Says whether some cell crashed, so that another invocation tries it again."""
        return bool(self._crashed)

    @property
    def workers(self) -> int:
        """Returns how many cells are trained at a time."""
        return self._progress.workers

    @workers.setter
    def workers(self, number: int) -> None:
        self._progress.workers = number

    def say(self, message: str) -> None:
        """Tells the user, on a line of its own."""
        self._progress.say(message)

    @property
    def finished(self) -> bool:
        """Says whether nothing runs and nothing is left to start."""
        return not (self._waiting or self._running or self._queue or self._searches)

    @property
    def settled(self) -> bool:
        """Says whether all is known already, which may move searches on to their result."""
        if self._waiting is None:
            self._waiting = self._next_cell()
        return self._waiting is None and self.finished

    def next(self) -> Cell | None:
        """Returns the next cell to train, or None if there is none at the moment.

        A search is one round of trials after another and so the longest chain: they come first.
        """
        cell, self._waiting = self._waiting or self._next_cell(), None
        if cell is not None:
            self._running[cell.id] = cell
            self._epochs[cell.id] = []
            self._tracker.start_cell(cell)
            self._progress.running = len(self._running)
            self._progress.update()
        return cell

    def report(self, cell_id: str, epochs: Sequence[Epoch]) -> bool:
        """Takes in epochs of a running cell; returns whether it is to be stopped, as if pruned."""
        cell = self._running.get(cell_id)
        if cell is None:
            return True
        history = self._epochs[cell_id]
        # A worker that was started again tells its epochs again.
        new = [metrics for metrics in epochs if int(metrics["epoch"]) > len(history)]
        stop = None
        if cell.purpose == "search":
            stop = self._search_of(cell).report(new, cell)
            if stop is not None:
                new = [metrics for metrics in new if int(metrics["epoch"]) <= stop]
        history += new
        for metrics in new:
            self._tracker.epoch(cell_id, metrics)
        if stop is not None:
            self.end(cell_id, "pruned", PartialResult.of(history), None, {})
        self._progress.update()
        return stop is not None

    def end(
        self,
        cell_id: str,
        status: Status,
        result: Result,
        error: str | None,
        environment: Mapping[str, str],
    ) -> None:
        """Records how a running cell ended; one that does not run (any more) is passed over."""
        cell = self._running.pop(cell_id, None)
        if cell is None:
            return
        history = self._epochs.pop(cell_id)
        if status == "crashed":
            result = PartialResult.of(history)
        environment = {**environment, "data": self._fingerprints[cell.dataset]}
        record = CellRecord(cell, status, result, error, environment)
        if status != "crashed":
            self._store.save(record)
            self._store.remove_checkpoints([cell_id])
        self._progress.running = len(self._running)
        self._count(record, before=False)
        if status in ("crashed", "diverged"):
            self._progress.say(f"{cell.id} {status}: {error}")
        self._tracker.end_cell(record)
        if cell.purpose == "search":
            if status == "crashed":
                # Trials are suggested from those before: going on without it would be another
                # search than the one that the next invocation continues from here.
                why = f"the search {cell.method} on {cell.dataset} stops here"
                self._leave_out(self.plan.search_key(cell), why)
            else:
                self._search_of(cell).end(status, result, cell)
        self._follow(record)
        self._progress.update()

    def tidy(self) -> None:
        """Removes what workers left behind that were stopped while they wrote a checkpoint."""
        self._store.remove_checkpoints(sorted(self._stored))

    def _next_cell(self) -> Cell | None:
        cell = self._next_trial()
        if cell is None and self._queue:
            cell = self._queue.pop(0)
        return cell

    def _next_trial(self) -> Cell | None:
        """Returns the next trial of any search; finished searches queue their rows."""
        for key, search in list(self._searches.items()):
            if search.running:
                continue
            cell = replay(search, self._keep)
            if cell is not None:
                return cell
            if search.done:
                del self._searches[key]
                self._finish(key, search)
        return None

    def _search_of(self, trial: Cell) -> Search:
        """Returns the search of a running trial, which goes on deciding about those that run when
        it is given up."""
        key = self.plan.search_key(trial)
        return self._searches.get(key) or self._given_up[key]

    def _finish(self, key: SearchKey, search: Search) -> None:
        """Queues the rows that waited for the search; of a strategy its trials are all there is."""
        self._progress.total += self._trials[key] - self.plan.expected(key[0])
        if not self.plan.waiting(key[0]):
            return
        assert isinstance(search, SpaceSearch)
        try:
            cells = self.plan.searched_cells(key, search.best())
        except SearchError as error:
            self._leave_out(key, str(error))
            return
        self._queue = [cell for cell in cells if not self._keep(cell)] + self._queue

    def _leave_out(self, key: SearchKey, why: str) -> None:
        """Gives up a search for this invocation, and the rows that need it."""
        search = self._searches.pop(key, None)
        if search is not None:
            self._given_up[key] = search
        elif key in self._given_up:
            return  # another trial of the round crashed before
        lost = len(self.plan.waiting(key[0])) * len(self.plan.seeds)
        self._progress.failed += lost
        rest = f"; the {lost} trainings that need its result are left out" if lost else ""
        self._progress.say(f"{why}{rest}")

    def _follow(self, record: CellRecord) -> None:
        """Queues the frozen cells that draw from what this one learned, or leaves them out; and
        what is filtered by what it predicts."""
        self._filter(record)
        cell, rows = record.cell, self.plan.followers(record.cell.method)
        if cell.purpose != "final" or not rows:
            return
        if record.status == "finished" and record.trained.lam_quantiles:
            learned = record.trained
            cells = self.plan.frozen_cells(cell, learned.lam_quantiles, learned.lam_schedule)
            self._queue += [cell for cell in cells if not self._keep(cell)]
            return
        why = f"{cell.id} {record.status}"
        if record.status == "finished":
            place = self._store.place(cell.id)
            why = f"{cell.id} was stored without the quantiles of λ (delete {place} to train it)"
        self._progress.failed += len(rows)
        names = ", ".join(row.row.key for row in rows)
        self._progress.say(f"{why}; what draws from what it learned is left out: {names}")

    def _filter(self, record: CellRecord) -> None:
        """Queues the filtered cells whose folds have all been predicted by now."""
        cell = record.cell
        for row in self.plan.filters(cell.method) if cell.purpose == "final" else ():
            folds = self.plan.fold_cells(row, cell.dataset, cell.seed)
            records = [self._store.load(fold.id) for fold in folds if fold.id in self._stored]
            done = [r for r in records if r is not None and r.status == "finished"]
            if record.status != "finished":
                self._lose(f"{cell.id} {record.status}", row, cell)
            elif len(done) == len(folds):
                try:
                    left_out = suspected(done, self._sources)
                except (ImportError, ValueError) as error:
                    self._lose(str(error), row, cell)
                    continue
                filtered = self.plan.filtered_cell(row, cell.dataset, cell.seed, left_out)
                self._queue += [] if self._keep(filtered) else [filtered]

    def _lose(self, why: str, row: StudyRow, cell: Cell) -> None:
        """Counts a filtered cell as failed, once; `cell` is one that it needed."""
        lost = row.row.key, cell.dataset, cell.seed
        if lost in self._lost:
            return
        self._lost.add(lost)
        self._progress.failed += 1
        self._progress.say(f"{why}; what is filtered by it is left out: {row.row.key}")

    def _load(self, cell: Cell) -> CellRecord | None:
        """Returns the cell's record from before, if it was trained on the data of now."""
        record = self._store.load(cell.id)
        if record is None:
            return None
        before, now = record.environment.get("data"), self._fingerprints[cell.dataset]
        if before != now:
            raise StoreError(
                f"{self._store.place(cell.id)} was trained on other images or labels of "
                f"{cell.dataset}{', or from other weights' if len(now) > 16 else ''} (fingerprint "
                f"{before}, now {now}); choose another output folder, or train everything again "
                "with --fresh"
            )
        return record

    def _keep(self, cell: Cell) -> CellRecord | None:
        """Returns the cell's record from before, which is tracked and counted once, or None."""
        record = self._load(cell)
        if record is not None and cell.id not in self._stored:
            self._tracker.end_cell(record)
            self._count(record, before=True)
            self._follow(record)
        return record

    def _count(self, record: CellRecord, *, before: bool) -> None:
        if record.status == "crashed":
            self._crashed[record.cell.id] = record
        else:
            self._stored.add(record.cell.id)
        if record.cell.purpose == "search":
            self._trials[self.plan.search_key(record.cell)] += 1
        progress = self._progress
        if before:
            progress.kept += 1
        elif record.status in ("crashed", "diverged"):
            progress.failed += 1
        else:
            progress.done += 1
        if record.status == "finished" and not record.cell.training.meta_in_training:
            error = record.trained.val_error
            if progress.best is None or error < progress.best[0]:
                progress.best = (error, record.cell.method)

"""Search of a training's settings in Optuna: random or TPE, with successive halving or without.

Whoever runs the trials (Ray Tune in `hpo.cluster.runner`, a plain loop in `hpo.optuna_study`) asks
for the next cell, reports its epochs and says how it ended. The search decides, and decides alike
whoever asks: trials come in rounds of a fixed size, one by default; a trial is suggested from the
rounds before it, those of its round that were suggested before it, and a seed of its own number. So
a study that is killed and started again ends with the same result, whichever trial ends first.
Ray's own OptunaSearch with ASHAScheduler does not: it counts stopped trials as complete with the
value they had when stopped, and its decisions follow the order in which results happen to arrive.
"""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import optuna
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from core.policies import Beta
from core.training.config import TrainingConfig
from core.training.result import TrainingResult
from hpo.cells.cell import Cell
from hpo.cells.record import Status
from hpo.cells.result import Result
from hpo.search.budget import Budget
from hpo.search.configured import configured
from hpo.search.halving import SuccessiveHalving
from hpo.search.protocol import SEARCH_METHOD, SearchError, SearchSettings
from hpo.search.spaces import BETA_ALPHA, Space, suggest

_LOSS = "val_loss"
"""A trial's attribute: the mean meta-validation loss of its trainings."""

REPEATS = 100
"""So many trainings in a row that were trained before end a search under a budget: they cost it
nothing, and it may have found all that it looks for."""

_SEEDS_APART = 2**20
"""As many seeds of the sampler there are for a data set's draws to begin with."""


class SpaceSearch:
    """Finds the settings with the lowest meta-validation error; of equal ones the first, or the one
    with the lowest meta-validation loss (`SearchSettings.ties_by_loss`).

    The test set is not used.

    Args:
        base: the training to tune; the settings that the space names are replaced.
        settings: how long to search, and how.
        space: over which settings; see `hpo.search.configured`.
        method: of the trials' cells.
        budget: what the trials may cost, each training once, however often it is drawn; needed
            where `settings.trials` is None.
        storage: an Optuna storage for users who want to look into the study; None keeps it in
            memory, which is enough where the cells' own records are stored.

    Raises:
        ValueError: neither a number of trials nor a budget ends the search.
    """

    def __init__(
        self,
        base: TrainingConfig,
        settings: SearchSettings,
        space: Space,
        *,
        method: str,
        budget: Budget | None = None,
        storage: optuna.storages.BaseStorage | str | None = None,
    ):
        if settings.trials is None and budget is None:
            raise ValueError("a search needs a number of trials or a budget, got neither")
        self.settings = settings
        self._base = base
        self._space = dict(space)
        if settings.with_zero and "alpha" in space and _may_be_zero(base):
            self._space["alpha"] = space["alpha"].with_zero()
        self._method = method
        self._budget = budget
        self._waiting: list[Cell] = []
        """Of the present round, not handed out yet."""
        self._trials: dict[str, list[optuna.Trial]] = {}
        """Those of the present round, by a cell that is trained for them and has not ended."""
        self._ends: dict[int, list[tuple[float, float]]] = {}
        """Of trials that have not ended, by number: error and loss of their finished trainings."""
        self._charged: set[str] = set()
        """Cells that the budget has paid for."""
        self._repeats = 0
        """Cells in a row that it had paid for before."""
        self._draws = settings.seed
        if settings.own_draws:
            self._draws += zlib.crc32(base.dataset.encode()) % _SEEDS_APART
        halving = SuccessiveHalving(settings.min_epochs, settings.reduction, settings.parallel)
        self._study = optuna.create_study(
            study_name=self._cell(base).id,
            storage=storage,
            direction="minimize",
            load_if_exists=True,
            pruner=halving if settings.halving and settings.replicates == 1 else NopPruner(),
        )

    @property
    def study(self) -> optuna.Study:
        """Returns the Optuna study, to look at."""
        return self._study

    @property
    def running(self) -> bool:
        """Says whether all trials of the round were handed out, and some have not ended."""
        return bool(self._trials) and not self._waiting

    @property
    def done(self) -> bool:
        """Says whether all trials have ended, or the budget is spent or buys nothing new."""
        if self._trials:
            return False
        if self._budget is not None and (self._budget.spent or self._repeats >= REPEATS):
            return True
        return self.settings.trials is not None and self._ended() >= self.settings.trials

    def next(self) -> Cell:
        """Returns the next trial's cell. Neither `running` nor `done` may be true."""
        if not self._waiting:
            self._suggest_round()
        return self._waiting.pop(0)

    def report(self, epochs: Iterable[Mapping[str, float]], cell: Cell | None = None) -> int | None:
        """Takes in a running trial's epochs; from its first on, each once or again.

        Args:
            epochs: with their number and meta-validation error.
            cell: whose they are; may be left out where one runs.

        Returns:
            The epoch after which it is to be stopped, or None to go on.
        """
        epochs = list(epochs)
        running = self._trials[self._running_name(cell)]
        stops = [self._report(trial, epochs) for trial in running]
        return stops[0]

    def end(self, status: Status, result: Result, cell: Cell | None = None) -> None:
        """Takes in how a running trial ended; the cell may be left out where one runs."""
        name = self._running_name(cell)
        if self._budget is not None and name not in self._charged:
            self._budget.charge(self._base, status, result)
        self._repeats = self._repeats + 1 if name in self._charged else 0
        self._charged.add(name)
        for trial in self._trials.pop(name):
            self._end(trial, status, result)

    def best(self) -> dict[str, float]:
        """Returns the settings of the finished trial with the lowest meta-validation error.

        Raises:
            SearchError: no trial finished.
        """
        finished = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not finished:
            raise SearchError(
                f"none of the {self._ended()} trials of the search on "
                f"{self._base.dataset} finished; see their errors above, lower --lr"
            )
        by_loss = self.settings.ties_by_loss
        best = min(
            finished,
            key=lambda t: (t.value, by_loss and t.user_attrs.get(_LOSS, math.inf), t.number),
        )
        return {name: part.value(best.params[name]) for name, part in self._space.items()}

    def _suggest_round(self) -> None:
        """Suggests the trials of a round, or goes on with those that a killed process left."""
        known = self._study.get_trials(deepcopy=False)
        running = {t.number: t for t in known if t.state == TrialState.RUNNING}
        size = self.settings.parallel
        first = min(running, default=len(known)) // size * size
        numbers = range(first, first + size)
        if self.settings.trials is not None:
            numbers = range(first, min(first + size, self.settings.trials))
        for number in numbers:
            if number < len(known) and number not in running:
                continue  # it has ended
            # A seed of each trial's own: after a kill it draws what it would have.
            self._study.sampler = self._sampler(self._draws + number)
            trial = (
                optuna.Trial(self._study, running[number]._trial_id)
                if number in running
                else self._study.ask()
            )
            training = configured(self._base, suggest(trial, self._space))
            self._ends[trial.number] = []
            for replicate in range(self.settings.replicates):
                cell = self._cell(replace(training, seed=training.seed + replicate))
                if cell.id not in self._trials:  # of equal ones one is trained
                    self._waiting.append(cell)
                self._trials.setdefault(cell.id, []).append(trial)

    def _end(self, trial: optuna.Trial, status: Status, result: Result) -> None:
        """Takes in that a training of a trial ended, which the trial does with its last."""
        ends = self._ends[trial.number]
        failed = {"pruned": TrialState.PRUNED}.get(status, TrialState.FAIL)
        ends.append(_validation(result))
        if any(trial in running for running in self._trials.values()):
            return
        del self._ends[trial.number]
        error, loss = (math.fsum(part) / len(ends) for part in zip(*ends, strict=True))
        if math.isnan(error):
            self._study.tell(trial, state=failed)
        else:
            trial.set_user_attr(_LOSS, loss)
            self._study.tell(trial, error)

    def _report(self, trial: optuna.Trial, epochs: Iterable[Mapping[str, float]]) -> int | None:
        known = self._study.get_trials(deepcopy=False)[trial.number].intermediate_values
        last = max(known, default=0)  # of a killed process, which may not have asked about it
        for metrics in epochs:
            epoch = int(metrics["epoch"])
            if epoch < last:
                continue
            if epoch > last:
                trial.report(metrics["val_error"], step=epoch)
            if epoch < self._base.epochs and trial.should_prune():
                return epoch
        return None

    def _cell(self, training: TrainingConfig) -> Cell:
        return Cell(self._method, training, purpose="search", parallel=self.settings.parallel)

    def _sampler(self, seed: int) -> BaseSampler:
        if self.settings.sampler == "random":
            return RandomSampler(seed=seed)
        # Trials of a round that have no result yet count as bad ones, which keeps the round wide.
        rounds = self.settings.parallel > 1
        return TPESampler(seed=seed, n_startup_trials=self.settings.startup, constant_liar=rounds)

    def _ended(self) -> int:
        ended = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        return len(self._study.get_trials(deepcopy=False, states=ended))

    def _running_name(self, cell: Cell | None) -> str:
        """Returns the id of a running cell, which may be left out where one runs."""
        handed_out = self._trials.keys() - {waiting.id for waiting in self._waiting}
        name = cell.id if cell is not None else next(iter(handed_out), None)
        if name not in handed_out or (cell is None and len(handed_out) > 1):
            raise RuntimeError("no trial is running: call next() first")
        return name


def alpha_search(
    base: TrainingConfig,
    settings: SearchSettings,
    *,
    storage: optuna.storages.BaseStorage | str | None = None,
) -> SpaceSearch:
    """Returns the search for α of Beta(α, α).

    Args:
        base: the training to tune; its policy and seed are replaced.
        settings: how long to search, and the seed of the trainings.
        storage: see `SpaceSearch`.
    """
    tuned = replace(base, policy=Beta(1.0), seed=settings.seed)
    return SpaceSearch(tuned, settings, BETA_ALPHA, method=SEARCH_METHOD, storage=storage)


def _validation(result: Result) -> tuple[float, float]:
    """Returns the meta-validation error and loss after the last epoch; NaN of an unfinished one.

    A result that stored no loss has an infinite one.
    """
    if not isinstance(result, TrainingResult):
        return math.nan, math.nan
    loss = result.history[-1].get("val_loss", math.inf) if result.history else math.inf
    return result.val_error, loss


def _may_be_zero(base: TrainingConfig) -> bool:
    """Says whether α of its policy may be 0: one that moves log α has no such α."""
    try:
        configured(base, {"alpha": 0.0})
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def optuna_silenced() -> Iterator[None]:
    """Inside, Optuna does not log each trial; a study has a progress bar of its own."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)

"""The search for Beta's α: TPE on a log scale with asynchronous successive halving, in Optuna.

Whoever runs the trials (Ray Tune in `hpo.ray_runner`, a plain loop in `hpo.optuna_study`) asks for
the next cell, reports its epochs and says how it ended. The search decides, and decides the same
way whoever asks: a trial is suggested from the trials before it and a seed of its own number, and
trials run one after another, so a study that is killed and started again ends with the same α.
Ray's own OptunaSearch with ASHAScheduler does not: it counts stopped trials as complete with the
value they had when stopped, and its decisions follow the order in which results happen to arrive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from core.config import PolicyConfig, TrainingConfig
from hpo.cells import Cell, Status
from hpo.spaces import BETA_ALPHA, Space, suggest

SEARCH_METHOD = "beta-search"
"""Method of all search trials: rows that use the same search share it."""


class SearchError(RuntimeError):
    """A search ended without a single finished trial."""


@dataclass(frozen=True)
class SearchSettings:
    """How long to search.

    Attributes:
        trials: trainings started, those stopped early counted.
        startup: of them drawn at random before TPE has something to learn from.
        min_epochs: epochs before the first halving.
        reduction: one in so many goes on at each halving; the rungs are min_epochs·reduction^k.
        seed: of the sampler, and of the trainings and their split. It is no seed of the table's, so
            the trials share neither initial weights nor split with any row they are compared in.
    """

    trials: int = 12
    startup: int = 4
    min_epochs: int = 3
    reduction: int = 3
    seed: int = 10_000

    def __post_init__(self) -> None:
        for name in ("trials", "startup", "min_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"search {name} must be at least 1, got {getattr(self, name)}")
        if self.reduction < 2:
            raise ValueError(f"search reduction must be at least 2, got {self.reduction}")


class _SuccessiveHalving(BasePruner):
    """Asynchronous successive halving that decides from the reported errors alone.

    Optuna's own pruner notes that a trial has reached a rung before it tells whether to stop it:
    asked again after a kill, it lets the trial go on. This one gives the same answer again.
    """

    def __init__(self, min_epochs: int, reduction: int):
        self._min_epochs = min_epochs
        self._reduction = reduction

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial is behind the best 1/reduction (one at least) that came as far."""
        epoch = trial.last_step
        rung = self._min_epochs
        while epoch is not None and rung < epoch:
            rung *= self._reduction
        if rung != epoch:
            return False
        value = trial.intermediate_values[epoch]
        others = (t for t in study.get_trials(deepcopy=False) if t.number != trial.number)
        values = [t.intermediate_values[epoch] for t in others if epoch in t.intermediate_values]
        values = sorted([*values, value])
        return value > values[max(len(values) // self._reduction, 1) - 1]


class AlphaSearch:
    """Finds the α with the lowest error on the meta-validation images. The test set is not used.

    Args:
        base: the training to tune; its policy and seed are replaced.
        settings: how long to search.
        storage: an Optuna storage for users who want to look into the study; None keeps it in
            memory, which is enough where the cells' own records are stored.
        space: over which α.
    """

    def __init__(
        self,
        base: TrainingConfig,
        settings: SearchSettings,
        *,
        storage: optuna.storages.BaseStorage | str | None = None,
        space: Space = BETA_ALPHA,
    ):
        self.settings = settings
        self._base = base
        self._space = space
        self._current: optuna.Trial | None = None
        self._study = optuna.create_study(
            study_name=self._cell(1.0).id,
            storage=storage,
            direction="minimize",
            load_if_exists=True,
            pruner=_SuccessiveHalving(settings.min_epochs, settings.reduction),
        )

    @property
    def study(self) -> optuna.Study:
        """The Optuna study, to look at."""
        return self._study

    @property
    def running(self) -> bool:
        """Whether a trial was handed out and has not ended."""
        return self._current is not None

    @property
    def done(self) -> bool:
        """Whether all trials have ended."""
        return not self.running and self._ended() >= self.settings.trials

    def next(self) -> Cell:
        """The next trial's training. The one before must have ended, and `done` be false."""
        stale = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        number = stale[0].number if stale else len(self._study.get_trials(deepcopy=False))
        # A seed of each trial's own: a search that goes on after a kill draws what it would have.
        self._study.sampler = TPESampler(
            seed=self.settings.seed + number, n_startup_trials=self.settings.startup
        )
        if stale:
            self._current = optuna.Trial(self._study, stale[0]._trial_id)
        else:
            self._current = self._study.ask()
        return self._cell(suggest(self._current, self._space)["alpha"])

    def report(self, epochs: Iterable[Mapping[str, float]]) -> int | None:
        """Take in the running trial's epochs; from its first on, each once or again.

        Returns:
            The epoch after which it is to be stopped, or None to go on.
        """
        trial = self._require_current()
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

    def end(self, status: Status, result: Mapping[str, Any]) -> None:
        """Say how the running trial ended."""
        trial = self._require_current()
        if status == "finished":
            self._study.tell(trial, float(result["val_error"]))
        elif status == "pruned":
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, state=TrialState.FAIL)
        self._current = None

    def best_alpha(self) -> float:
        """The α of the finished trial with the lowest meta-validation error, the first of equals.

        Raises:
            SearchError: no trial finished.
        """
        finished = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not finished:
            raise SearchError(
                f"none of the {self.settings.trials} trials of the search on "
                f"{self._base.dataset} finished; see their errors above, lower --lr"
            )
        best = min(finished, key=lambda t: (t.value, t.number))
        return float(best.params["alpha"])

    def _cell(self, alpha: float) -> Cell:
        training = replace(
            self._base, policy=PolicyConfig("beta", alpha=alpha), seed=self.settings.seed
        )
        return Cell(SEARCH_METHOD, training, purpose="search")

    def _ended(self) -> int:
        ended = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        return len(self._study.get_trials(deepcopy=False, states=ended))

    def _require_current(self) -> optuna.Trial:
        if self._current is None:
            raise RuntimeError("no trial is running: call next() first")
        return self._current

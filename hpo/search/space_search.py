"""Search of a training's settings in Optuna: random or TPE, with successive halving or without.

Whoever runs the trials (Ray Tune in `hpo.cluster.runner`, a plain loop in `hpo.optuna_study`) asks
for the next cell, reports its epochs and says how it ended. The search decides, and decides alike
whoever asks: a trial is suggested from the trials before it and a seed of its own number, and
trials run one after another, so a study that is killed and started again ends with the same result.
Ray's own OptunaSearch with ASHAScheduler does not: it counts stopped trials as complete with the
value they had when stopped, and its decisions follow the order in which results happen to arrive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

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
from hpo.search.halving import SuccessiveHalving
from hpo.search.protocol import SearchError, SearchSettings
from hpo.search.spaces import BETA_ALPHA, Space, suggest

SEARCH_METHOD = "beta-search"
"""Method of the trials of the search for α: rows that use its result share it."""


class SpaceSearch:
    """Finds the settings with the lowest meta-validation error. The test set is not used.

    Args:
        base: the training to tune; the settings that the space names are replaced.
        settings: how long to search, and how.
        space: over which settings; see `configured`.
        method: of the trials' cells.
        budget: what the trials may cost; needed where `settings.trials` is None.
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
        self._space = space
        self._method = method
        self._budget = budget
        self._current: optuna.Trial | None = None
        halving = SuccessiveHalving(settings.min_epochs, settings.reduction)
        self._study = optuna.create_study(
            study_name=Cell(method, base, purpose="search").id,
            storage=storage,
            direction="minimize",
            load_if_exists=True,
            pruner=halving if settings.halving else NopPruner(),
        )

    @property
    def study(self) -> optuna.Study:
        """Returns the Optuna study, to look at."""
        return self._study

    @property
    def running(self) -> bool:
        """Says whether a trial was handed out and has not ended."""
        return self._current is not None

    @property
    def done(self) -> bool:
        """Says whether all trials have ended, or the budget is spent."""
        if self.running:
            return False
        if self._budget is not None and self._budget.spent:
            return True
        return self.settings.trials is not None and self._ended() >= self.settings.trials

    def next(self) -> Cell:
        """Returns the next trial. The one before must have ended, and `done` be false."""
        stale = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        number = stale[0].number if stale else len(self._study.get_trials(deepcopy=False))
        # A seed of each trial's own: a search that goes on after a kill draws what it would have.
        self._study.sampler = self._sampler(self.settings.seed + number)
        if stale:
            self._current = optuna.Trial(self._study, stale[0]._trial_id)
        else:
            self._current = self._study.ask()
        training = configured(self._base, suggest(self._current, self._space))
        return Cell(self._method, training, purpose="search")

    def report(self, epochs: Iterable[Mapping[str, float]]) -> int | None:
        """Takes in the running trial's epochs; from its first on, each once or again.

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

    def end(self, status: Status, result: Result) -> None:
        """Takes in how the running trial ended."""
        trial = self._require_current()
        if self._budget is not None:
            self._budget.charge(self._base, status, result)
        if isinstance(result, TrainingResult):
            self._study.tell(trial, result.val_error)
        elif status == "pruned":
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, state=TrialState.FAIL)
        self._current = None

    def best(self) -> dict[str, float]:
        """Returns the settings of the first finished trial with the lowest meta-validation error.

        Raises:
            SearchError: no trial finished.
        """
        finished = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not finished:
            raise SearchError(
                f"none of the {self._ended()} trials of the search on "
                f"{self._base.dataset} finished; see their errors above, lower --lr"
            )
        best = min(finished, key=lambda t: (t.value, t.number))
        return {name: best.params[name] for name in self._space}

    def _sampler(self, seed: int) -> BaseSampler:
        if self.settings.sampler == "random":
            return RandomSampler(seed=seed)
        return TPESampler(seed=seed, n_startup_trials=self.settings.startup)

    def _ended(self) -> int:
        ended = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        return len(self._study.get_trials(deepcopy=False, states=ended))

    def _require_current(self) -> optuna.Trial:
        if self._current is None:
            raise RuntimeError("no trial is running: call next() first")
        return self._current


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


def configured(base: TrainingConfig, values: Mapping[str, float]) -> TrainingConfig:
    """Returns the training with `values` in place of its own.

    A name is a setting of the training ("lr", "weight_decay"), of its policy ("alpha"), of the
    reading of a policy that learns ("step_size"), or of a semi-supervised method
    ("threshold_step").

    Raises:
        ValueError: a name is none of these, or the training has no reading or no such method.
    """
    parts = _parts(base)
    for name, value in values.items():
        part = _part_of(parts, name)
        parts[part] = replace(parts[part], **{name: value})
    policy = parts["policy"]
    if "reading" in parts:
        policy = replace(policy, reading=parts["reading"])
    return replace(parts["training"], policy=policy, semi=parts.get("semi"))


def setting(training: TrainingConfig, name: str) -> float:
    """Returns what the training has for a name of `configured`; raises ValueError as that does."""
    parts = _parts(training)
    return float(getattr(parts[_part_of(parts, name)], name))


def _parts(training: TrainingConfig) -> dict[str, Any]:
    """Returns what a search may vary, in the order in which names are looked up."""
    parts = {
        "training": training,
        "policy": training.policy,
        "reading": getattr(training.policy, "reading", None),
        "semi": training.semi,
    }
    return {name: part for name, part in parts.items() if part is not None}


def _part_of(parts: Mapping[str, Any], name: str) -> str:
    for part, config in parts.items():
        if name in {field.name for field in fields(config)} - _WHOLE:
            return part
    raise ValueError(
        f"cannot search over {name!r}: it is no setting of a training, of its policy "
        f"{parts['policy'].kind}, of a reading that this policy has, or of a semi-supervised "
        "method that it trains by"
    )


_WHOLE = {"policy", "reading", "semi", "kind", "labelled"}
"""Fields that hold another configuration, or say which one it is: no search varies them."""


def silence_optuna() -> None:
    """Keeps Optuna from logging each trial; a study has a progress bar of its own."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)

"""Successive halving that decides alike after a kill."""

from __future__ import annotations

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial


class SuccessiveHalving(BasePruner):
    """Asynchronous successive halving that decides from the reported errors alone.

    Optuna's own pruner notes that a trial has reached a rung before it tells whether to stop it:
    asked again after a kill, it lets the trial go on. This one gives the same answer again.

    Trials are compared with those of the rounds before theirs: within a round it depends on the
    machines who comes first.

    Args:
        min_epochs, reduction: the rungs are min_epochs·reduction^k.
        parallel: trials of a round.
    """

    def __init__(self, min_epochs: int, reduction: int, parallel: int = 1):
        self._min_epochs = min_epochs
        self._reduction = reduction
        self._parallel = parallel

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Returns whether the trial is behind the best 1/reduction (one at least) that came as
        far."""
        epoch = trial.last_step
        rung = self._min_epochs
        while epoch is not None and rung < epoch:
            rung *= self._reduction
        if rung != epoch:
            return False
        value = trial.intermediate_values[epoch]
        before = trial.number // self._parallel * self._parallel
        others = study.get_trials(deepcopy=False)[:before]
        values = [t.intermediate_values[epoch] for t in others if epoch in t.intermediate_values]
        values = sorted([*values, value])
        return value > values[max(len(values) // self._reduction, 1) - 1]

from __future__ import annotations

from dataclasses import replace

import pytest

from core.policies import (
    Beta,
    LearnedConfig,
)
from core.training.config import TrainingConfig
from hpo.cells.record import Status
from hpo.cells.result import PartialResult
from hpo.search.budget import Budget

PLAIN = TrainingConfig("digits", "cnn", Beta(alpha=1.0), epochs=20)
LEARNED = replace(PLAIN, policy=LearnedConfig())


@pytest.mark.parametrize(
    ("training", "status", "epochs", "cost"),
    [
        (PLAIN, "finished", 20, 1.0),
        (PLAIN, "pruned", 5, 0.25),
        (PLAIN, "diverged", 4, 0.25),  # the fifth failed
        (PLAIN, "diverged", 0, 0.05),  # or a search of such would never end
        (LEARNED, "finished", 20, 4.5),
        (LEARNED, "pruned", 4, 0.9),
        (replace(PLAIN, policy=LearnedConfig(every=7)), "finished", 20, 1.5),
    ],
)
def test_a_training_is_charged_for_the_epochs_it_was_given(
    training: TrainingConfig, status: Status, epochs: int, cost: float
) -> None:
    result = PartialResult([], epochs, train_seconds=1e6, samples_seen=0)  # a clock decides nothing
    just, more = Budget(cost), Budget(cost + 1e-6)
    for budget in (just, more):
        assert not budget.spent
        budget.charge(training, status, result)
    assert just.spent
    assert not more.spent


def test_parts_that_sum_up_to_the_budget_spend_it() -> None:
    assert 0.7 + 0.1 + 0.1 + 0.1 < 1.0
    budget = Budget(1.0)
    for epochs in (14, 2, 2, 2):
        assert not budget.spent
        budget.charge(PLAIN, "pruned", PartialResult([], epochs, 0.0, 0))
    assert budget.spent


@pytest.mark.parametrize("total", [0.0, -1.0, float("inf"), float("nan")])
def test_an_impossible_budget_is_refused(total: float) -> None:
    with pytest.raises(ValueError, match="budget must be positive and finite, got"):
        Budget(total)

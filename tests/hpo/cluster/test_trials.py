"""What a study has Tune keep of its trials, and which it looks at: no cluster is started."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.experiment import Trial

from hpo.cluster.runner import _StudyScheduler, _StudySearcher

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Told(list[int]):
    """A list that can be watched."""


@pytest.fixture
def scheduler() -> _StudyScheduler:
    run: Any = SimpleNamespace()
    return _StudyScheduler(run, _StudySearcher(run, ahead=0))


def test_nothing_of_what_a_trial_reported_stays(scheduler: _StudyScheduler) -> None:
    trial = Trial("train_cell", stub=True, config={"cell": {"seed": Told()}})
    epochs, cell = Told([1, 2]), weakref.ref(trial.config["cell"]["seed"])
    reported = weakref.ref(epochs)
    trial.update_last_result({"epochs": epochs, "loss": 1.0, "training_iteration": 1})
    assert trial.metric_analysis
    del epochs
    assert reported() is not None
    assert cell() is not None
    scheduler.on_trial_complete(None, trial, {})
    gc.collect()
    assert reported() is None
    assert cell() is None
    assert not trial.metric_analysis
    # What Tune still asks of it.
    assert trial.last_result["done"] is True
    assert trial.last_result["trial_id"] == trial.trial_id


def test_the_next_trial_is_found_without_a_look_at_those_that_have_ended(
    scheduler: _StudyScheduler,
) -> None:
    running, waiting = SimpleNamespace(status=Trial.RUNNING), SimpleNamespace(status=Trial.PENDING)
    controller = SimpleNamespace(get_live_trials=lambda: {1: running, 2: waiting}.values())
    assert scheduler.choose_trial_to_run(controller) is waiting
    controller = SimpleNamespace(get_live_trials=lambda: [running])
    assert scheduler.choose_trial_to_run(controller) is None

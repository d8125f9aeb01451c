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


def test_the_next_trial_is_the_first_of_the_study_that_waits(scheduler: _StudyScheduler) -> None:
    """Tune's live trials are a set, in no order."""
    names = ("ran", "first", "second", "third")
    scheduler._searcher.cell_ids = {name: name for name in names}
    trials = [SimpleNamespace(trial_id=name, status=Trial.PENDING) for name in names]
    trials[0].status = Trial.RUNNING
    controller = SimpleNamespace(get_live_trials=lambda: reversed(trials))
    assert scheduler.choose_trial_to_run(controller) is trials[1]
    controller = SimpleNamespace(get_live_trials=lambda: trials[:1])
    assert scheduler.choose_trial_to_run(controller) is None

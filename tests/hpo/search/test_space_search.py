from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.pruners import SuccessiveHalvingPruner
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from core.policies import Beta, NoMix
from core.training.config import TrainingConfig
from core.training.result import TrainingResult
from hpo.cells.cell import Cell
from hpo.cells.record import Status
from hpo.cells.result import PartialResult
from hpo.search.drive import Ending, run_through
from hpo.search.protocol import SEARCH_METHOD, SearchError, SearchSettings
from hpo.search.space_search import SpaceSearch, alpha_search
from tests.support.processes import Killed
from tests.support.results import PLAIN, result

EPOCHS = 12
BASE = TrainingConfig("digits", "digits_cnn", NoMix(), epochs=EPOCHS, meta_size=100, seed=3)
SETTINGS = SearchSettings(trials=8, startup=3, min_epochs=2, reduction=2, seed=50)

Epochs = list[dict[str, float]]
NOTHING = PartialResult.of([])
Trace = list[tuple[int, float, str, dict[int, float]]]


class NoTestError(TrainingResult):
    """A result that must not be asked for anything measured on the test images."""

    def __getattribute__(self, name: str) -> Any:
        assert "test" not in name
        return super().__getattribute__(name)


def val_error(alpha: float, epoch: int) -> float:
    """Best at alpha = 0.7; early epochs mislead a little, as they do in life."""
    wiggle = 2 * math.sin(9 * alpha + epoch)
    return 5 + 6 * math.log(alpha / 0.7) ** 2 + 30 / epoch + wiggle / epoch**2


def curve(cell: Cell, epochs: int = EPOCHS) -> Epochs:
    assert isinstance(cell.training.policy, Beta)
    alpha = cell.training.policy.alpha
    return [
        {"epoch": float(epoch), "val_error": val_error(alpha, epoch)}
        for epoch in range(1, epochs + 1)
    ]


def ended(search: SpaceSearch, *, bundle: int = 1, again: bool = False) -> Callable[[Cell], Ending]:
    """Trains as a worker does: epochs told `bundle` at a time, `again` all so far each time."""

    def train(cell: Cell) -> Ending:
        epochs = curve(cell)
        for start in range(0, EPOCHS, bundle):
            stated = epochs[0 if again else start : start + bundle]
            stop = search.report(stated)
            assert search.report(stated) == stop  # whoever asks again hears the same
            if stop is not None:
                assert start < stop <= start + bundle
                return "pruned", NOTHING
        return "finished", NoTestError(**PLAIN | {"val_error": epochs[-1]["val_error"]})

    return train


def trace(search: SpaceSearch) -> Trace:
    """Returns what became of each trial, as Optuna has it."""
    return [
        (t.number, t.params["alpha"], t.state.name, dict(sorted(t.intermediate_values.items())))
        for t in search.study.get_trials()
    ]


def complete(settings: SearchSettings = SETTINGS, **more: Any) -> SpaceSearch:
    search = alpha_search(BASE, settings, **more)
    assert run_through(search, ended(search)) is None
    return search


@pytest.fixture(scope="module")
def undisturbed() -> Trace:
    actual = trace(complete())
    states = [state for _, _, state, _ in actual]
    assert {"COMPLETE", "PRUNED"} == set(states)  # otherwise the tests below would show little
    return actual


# The trials


def test_trials_are_trainings_of_the_base_with_alpha_and_the_searchs_own_seed() -> None:
    search = alpha_search(BASE, SETTINGS)
    alphas: set[float] = set()

    def look(cell: Cell) -> Ending:
        assert search.running
        assert (cell.method, cell.purpose, cell.seed) == (SEARCH_METHOD, "search", 50)
        policy = cell.training.policy
        assert isinstance(policy, Beta)
        assert 0.05 <= policy.alpha <= 8.0
        alphas.add(policy.alpha)
        assert (cell.training.epochs, cell.training.meta_size) == (EPOCHS, 100)
        return ended(search)(cell)

    assert not search.running
    run_through(search, look)
    assert len(alphas) == SETTINGS.trials == len(search.study.trials)


def test_another_seed_another_search() -> None:
    alphas = {s: [t[1] for t in trace(complete(SearchSettings(seed=s)))] for s in (1, 500)}
    assert not set(alphas[1]) & set(alphas[500])


@pytest.mark.parametrize(("bundle", "again"), [(5, False), (EPOCHS, False), (1, True), (3, True)])
def test_how_epochs_are_told_makes_no_difference(
    undisturbed: Trace, bundle: int, again: bool
) -> None:
    search = alpha_search(BASE, SETTINGS)
    run_through(search, ended(search, bundle=bundle, again=again))
    assert trace(search) == undisturbed


# Halving


@pytest.mark.parametrize(("min_epochs", "reduction"), [(1, 2), (1, 3), (2, 2), (3, 2), (2, 4)])
def test_trials_are_stopped_as_by_optunas_own_pruner(min_epochs: int, reduction: int) -> None:
    settings = SearchSettings(trials=14, startup=10, min_epochs=min_epochs, reduction=reduction)
    actual = trace(complete(settings))
    pruner = SuccessiveHalvingPruner(min_resource=min_epochs, reduction_factor=reduction)
    study = optuna.create_study(pruner=pruner)
    given = []
    for _, alpha, _, _ in actual:
        trial = study.ask()
        for epoch in range(1, EPOCHS + 1):
            trial.report(val_error(alpha, epoch), epoch)
            if epoch < EPOCHS and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, val_error(alpha, EPOCHS))
        given.append(epoch)
    assert [max(values) for *_, values in actual] == given
    states = ["COMPLETE" if epochs == EPOCHS else "PRUNED" for epochs in given]
    assert [state for _, _, state, _ in actual] == states
    assert len(set(given)) > 1


# The result


def test_the_best_alpha_is_of_finished_trials_only_and_the_first_of_equals() -> None:
    endings: list[tuple[Status, float]] = [
        ("finished", 20.0),
        ("pruned", 1.0),
        ("finished", 10.0),
        ("diverged", 0.0),
        ("finished", 10.0),
        ("crashed", 0.0),
    ]
    search = alpha_search(BASE, SearchSettings(trials=6))
    alphas = []
    for status, error in endings:
        alphas.append(search.next().training.policy.alpha)
        search.report([{"epoch": 1.0, "val_error": error}])
        search.end(status, result(val_error=error) if status == "finished" else NOTHING)
    assert search.done
    assert search.best()["alpha"] == alphas[2]
    states = ["COMPLETE", "PRUNED", "COMPLETE", "FAIL", "COMPLETE", "FAIL"]
    assert [t.state.name for t in search.study.trials] == states
    assert [t.value for t in search.study.trials if t.state.name == "COMPLETE"] == [20, 10, 10]


def test_without_a_finished_trial_there_is_no_best_alpha() -> None:
    search = alpha_search(BASE, SearchSettings(trials=2))
    for status in ("diverged", "crashed"):
        search.next()
        search.end(status, NOTHING)
    with pytest.raises(SearchError, match="none of the 2 trials of the search on digits finished"):
        search.best()["alpha"]


def test_the_search_finds_the_best_alpha_better_than_chance() -> None:
    """Against random draws that are trained in full for as many epochs in all: medians over eight
    seeds and over 4000 such sets of draws."""
    off, epochs = [], []
    for seed in range(0, 800, 100):
        settings = SearchSettings(trials=30, startup=6, min_epochs=3, reduction=3, seed=seed)
        search = complete(settings)
        off.append(abs(math.log(search.best()["alpha"] / 0.7)))
        epochs.append(sum(max(values) for *_, values in trace(search)))
    affordable = max(epochs) // EPOCHS + 1
    assert affordable < 25
    random = np.random.default_rng(0)
    draws = random.uniform(math.log(0.05), math.log(8), size=(4000, affordable))
    by_chance = np.abs(draws - math.log(0.7))
    assert np.median(off) < np.median(by_chance.min(axis=1))
    assert max(off) < np.median(by_chance) / 4


def test_nothing_can_be_told_about_a_trial_that_does_not_run() -> None:
    search = alpha_search(BASE, SETTINGS)
    with pytest.raises(RuntimeError, match=r"call next\(\) first"):
        search.report([])
    with pytest.raises(RuntimeError, match=r"call next\(\) first"):
        search.end("finished", result(val_error=1.0))


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [("trials", 0, 1), ("startup", 0, 1), ("min_epochs", 0, 1), ("reduction", 1, 2)],
)
def test_impossible_settings_are_refused(name: str, value: int, limit: int) -> None:
    with pytest.raises(ValueError, match=f"search {name} must be at least {limit}, got {value}"):
        SearchSettings(**{name: value})


# Killed and started again


def open_sqlite(folder: Path) -> str:
    return f"sqlite:///{folder / 'alpha.db'}"


def open_journal(folder: Path) -> BaseStorage:
    return JournalStorage(JournalFileBackend(str(folder / "alpha.log")))


@pytest.mark.parametrize(
    ("open_storage", "parallel"), [(open_sqlite, 1), (open_journal, 1), (open_journal, 2)]
)
def test_a_process_may_die_after_every_single_event(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    open_storage: Callable[[Path], BaseStorage | str],
    parallel: int,
) -> None:
    """Each process lives to see one new thing: a suggestion, an epoch stored, the pruner's answer
    taken, the same handed on, an ending. The next one finds its trial RUNNING and goes on."""
    settings = replace(SETTINGS, trials=4 if parallel == 1 else 3, parallel=parallel)
    calm = complete(settings)
    seen: set[tuple[object, ...]] = set()
    should_prune = optuna.Trial.should_prune

    def event(*what: object) -> None:
        if what not in seen:
            seen.add(what)
            raise Killed

    def decide(trial: optuna.Trial) -> bool:
        epoch = trial.storage.get_trial(trial._trial_id).last_step
        event("stored", trial.number, epoch)
        answer = should_prune(trial)
        event("decided", trial.number, epoch)
        return answer

    monkeypatch.setattr(optuna.Trial, "should_prune", decide)

    def live(search: SpaceSearch) -> None:
        def train(cell: Cell) -> Ending:
            number = cell.id
            event("suggested", number)
            for metrics in (epochs := curve(cell)):
                stop = search.report([metrics], cell)
                event("answered", number, metrics["epoch"])
                if stop is not None:
                    return "pruned", NOTHING
            return "finished", result(val_error=epochs[-1]["val_error"])

        run_through(search, train, lambda cell: event("ended", cell.id))

    processes = 0
    while True:
        processes += 1
        assert processes < 200
        search = alpha_search(BASE, settings, storage=open_storage(tmp_path))
        try:
            live(search)
            break
        except Killed:
            continue
    assert processes == len(seen) + 1 > 50
    assert trace(search) == trace(calm)
    assert search.best() == calm.best()


def test_trainings_that_differ_share_a_storage_and_no_trials(tmp_path: Path) -> None:
    storage = open_journal(tmp_path)
    shorter = TrainingConfig("digits", "digits_cnn", NoMix(), epochs=3)
    for base in (BASE, shorter):
        search = alpha_search(base, SearchSettings(trials=1), storage=storage)
        assert not search.done
        run_through(search, ended(search))
        assert len(search.study.trials) == 1
    assert alpha_search(BASE, SearchSettings(trials=1), storage=storage).done


def test_a_finished_search_goes_on_when_more_trials_are_wanted(tmp_path: Path) -> None:
    storage = open_journal(tmp_path)
    for trials in (3, 5):
        search = complete(replace(SETTINGS, trials=trials), storage=storage)
    assert trace(search) == trace(complete())[:5]

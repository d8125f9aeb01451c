from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage

import hpo
from core.data import Source
from core.training.checkpoint import CURRENT
from core.training.result import DivergenceError
from core.training.training import Training
from hpo import optuna_study
from hpo.cells.record import CellRecord
from hpo.cells.result import PartialResult
from hpo.cells.store import CellStore
from hpo.optuna_study import main, open_storage, search_alpha
from hpo.search.protocol import SearchSettings
from hpo.search.space_search import SpaceSearch, alpha_search
from hpo.study import presets
from tests.hpo.search.test_space_search import Trace, trace
from tests.support.processes import Killed
from tests.support.refusals import refused_in_a_line

BASE = replace(presets.training("digits", "smoke"), epochs=4, lr=0.1)
SETTINGS = SearchSettings(trials=4, startup=2, min_epochs=1, reduction=2, seed=10)


@pytest.fixture(scope="module")
def in_memory(source: Source) -> Trace:
    actual = trace(search_alpha(BASE, SETTINGS, source=source))
    assert len(actual) == 4
    assert {"COMPLETE", "PRUNED"} == {state for _, _, state, _ in actual}
    return actual


@pytest.fixture(params=["alpha.db", "alpha.log"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], BaseStorage]:
    """Opens the same storage anew, as each process does."""
    path = tmp_path / request.param
    name = f"sqlite:///{path}" if path.suffix == ".db" else str(path)
    return lambda: open_storage(name)


def test_a_storage_gives_the_same_trials_as_memory(
    in_memory: Trace, source: Source, reopen: Callable[[], BaseStorage]
) -> None:
    stated: list[int] = []
    search = search_alpha(
        BASE, SETTINGS, source=source, storage=reopen(), on_trial=lambda t: stated.append(t.number)
    )
    assert trace(search) == in_memory
    assert stated == [0, 1, 2, 3]
    again = search_alpha(
        BASE, SETTINGS, source=source, storage=reopen(), on_trial=lambda t: stated.append(t.number)
    )
    assert trace(again) == in_memory
    assert stated == [0, 1, 2, 3]
    assert again.best()["alpha"] == search.best()["alpha"]


@pytest.mark.parametrize("parallel", [1, 2])
def test_a_trial_of_several_trainings_is_told_once_with_the_mean_of_all(
    source: Source, parallel: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[optuna.trial.FrozenTrial] = []
    errors: dict[float, list[float]] = {}
    fit = optuna_study.fit

    def noted(config: Any, **more: Any) -> Any:
        result = fit(config, **more)
        errors.setdefault(config.policy.alpha, []).append(result.val_error)
        return result

    monkeypatch.setattr(optuna_study, "fit", noted)
    settings = replace(SETTINGS, trials=2, halving=False, replicates=2, parallel=parallel)
    base = replace(BASE, epochs=1)
    search = search_alpha(base, settings, source=source, on_trial=told.append)
    assert sorted(trial.number for trial in told) == [0, 1]
    assert {trial.state.name for trial in told} == {"COMPLETE"}
    assert [len(of_trial) for of_trial in errors.values()] == [2, 2]
    assert any(first != second for first, second in errors.values())
    for trial in told:
        assert trial.value == pytest.approx(sum(errors[trial.params["alpha"]]) / 2)
        assert search.study.trials[trial.number].value == trial.value


def test_checkpoints_lie_in_a_folder_of_this_machine(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = replace(SETTINGS, trials=1)
    places: list[Path] = []
    fit = optuna_study.fit

    def noted(config: Any, *, directory: Path, **more: Any) -> Any:
        result = fit(config, directory=directory, **more)
        places.append(directory)
        assert (directory / CURRENT).exists()
        return result

    monkeypatch.setattr(optuna_study, "fit", noted)
    search_alpha(BASE, one, source=source, checkpoints=str(tmp_path / "kept"))
    [place] = places
    assert place.parent == tmp_path / "kept/cells"
    with refused_in_a_line("checkpoints must be a folder of this machine, got s3://bucket/kept"):
        search_alpha(BASE, one, source=source, checkpoints="s3://bucket/kept")


@pytest.mark.parametrize(
    ("storage", "checkpoints"), [("sqlite:///{}/alpha.db", False), ("{}/alpha.log", True)]
)
def test_killed_anywhere_it_ends_with_the_same_trials(
    in_memory: Trace,
    source: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    storage: str,
    checkpoints: bool,
) -> None:
    """A process dies after each epoch that none before it told, and after each trial."""
    seen: set[tuple[object, ...]] = set()
    fit = optuna_study.fit
    monkeypatch.setattr("core.training.fit.CHECKPOINT_SECONDS", 0.0)

    def event(*what: object) -> None:
        if what not in seen:
            seen.add(what)
            raise Killed

    def mortal_fit(
        config: Any, *, on_epoch: Callable[[dict[str, float]], None], **more: Any
    ) -> Any:
        def watched(metrics: dict[str, float]) -> None:
            on_epoch(metrics)
            event(config.policy.alpha, metrics["epoch"])

        return fit(config, on_epoch=watched, **more)

    monkeypatch.setattr(optuna_study, "fit", mortal_fit)
    folder = tmp_path / "run" if checkpoints else None

    def live() -> SpaceSearch | None:
        try:
            return search_alpha(
                BASE,
                SETTINGS,
                source=source,
                storage=open_storage(storage.format(tmp_path)),
                checkpoints=folder,
                on_trial=lambda trial: event(trial.number),
            )
        except Killed:
            return None

    lives = 1
    while (search := live()) is None:
        lives += 1
        assert lives < 50
    assert lives == len(seen) + 1 > 8
    assert trace(search) == in_memory
    if folder is not None:
        assert list((folder / "cells").iterdir()) == []


def test_checkpoints_are_gone_on_from(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second process trains only the epochs that the first did not."""
    monkeypatch.setattr("core.training.fit.CHECKPOINT_SECONDS", 0.0)
    trained: list[int] = []
    one_epoch = Training.epoch

    def counted(training: Training) -> Any:
        if len(trained) == 3:
            trained.append(-1)
            raise Killed
        trained.append(len(training.history))
        return one_epoch(training)

    monkeypatch.setattr(Training, "epoch", counted)
    storage = open_storage(str(tmp_path / "alpha.log"))
    for _ in range(2):
        try:
            search_alpha(
                BASE,
                replace(SETTINGS, trials=1),
                source=source,
                storage=storage,
                checkpoints=tmp_path,
            )
        except Killed:
            continue
    assert trained == [0, 1, 2, -1, 3]


def test_a_killed_trial_of_several_trainings_repeats_none_that_ended(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, trials=1, halving=False, replicates=3)
    trained: list[int] = []
    one_epoch = Training.epoch

    def counted(training: Training) -> Any:
        if len(trained) == 2:
            trained.append(-1)
            raise Killed
        trained.append(training.config.seed)
        return one_epoch(training)

    monkeypatch.setattr(Training, "epoch", counted)
    storage, base = open_storage(str(tmp_path / "alpha.log")), replace(BASE, epochs=1)
    more = {"source": source, "storage": storage, "checkpoints": tmp_path}
    with pytest.raises(Killed):
        search_alpha(base, settings, **more)
    search = search_alpha(base, settings, **more)
    assert len(trained) == 4
    assert trained[2] == -1
    assert len({*trained}) == 4
    whole = search_alpha(base, settings, source=source)
    assert [t.value for t in search.study.trials] == [t.value for t in whole.study.trials]
    assert list((tmp_path / "cells").iterdir()) == []


def test_a_search_does_not_go_on_with_other_data(source: Source, tmp_path: Path) -> None:
    storage, one = open_storage(str(tmp_path / "alpha.log")), replace(SETTINGS, trials=1)
    search_alpha(BASE, one, source=source, storage=storage)
    other = replace(source, test_labels=source.test_labels[::-1].copy())
    with refused_in_a_line("digits has other images or labels than this search was begun with"):
        search_alpha(BASE, one, source=other, storage=storage)


def test_the_results_of_a_study_on_the_same_folder_stay(source: Source, tmp_path: Path) -> None:
    """The trials are the same cells: a study's record of one must not go with the checkpoints."""
    first = alpha_search(BASE, SETTINGS).next()
    record = CellRecord(first, "pruned", PartialResult.of([]), None, {})
    CellStore(tmp_path).save(record)
    search_alpha(BASE, replace(SETTINGS, trials=1), source=source, checkpoints=tmp_path)
    assert CellStore(tmp_path).records() == [record]
    assert [path.name for path in (tmp_path / "cells" / first.id).iterdir()] == ["result.json"]


def test_a_trial_that_diverges_fails_and_the_search_goes_on(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[float] = []
    fit = optuna_study.fit

    def first_diverges(config: Any, **more: Any) -> Any:
        calls.append(config.policy.alpha)
        if len(calls) == 1:
            raise DivergenceError("the loss became NaN", [])
        return fit(config, **more)

    monkeypatch.setattr(optuna_study, "fit", first_diverges)
    search = search_alpha(BASE, replace(SETTINGS, trials=2), source=source)
    assert [t.state.name for t in search.study.trials] == ["FAIL", "COMPLETE"]
    assert search.best()["alpha"] == calls[1]


# The command line


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_prints_trials_and_the_best_alpha(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--preset", "smoke", "--storage", "alpha.log"]
    assert main(command) == 0
    first = capsys.readouterr().out.splitlines()
    study = optuna.load_study(study_name=None, storage=open_storage("alpha.log"))
    expected = [
        f"trial {t.number}: alpha {t.params['alpha']:.4g}, "
        f"validation error {t.intermediate_values[t.last_step or 0]:.2f} % "
        f"after {t.last_step} epochs, {t.state.name.lower()}"
        for t in study.trials
    ]
    assert first[:-1] == expected
    assert len(expected) == 3
    assert first[-1] == f"best alpha on digits: {study.best_params['alpha']:.4g}"
    assert main(command) == 0  # all done: the result again and nothing else
    assert capsys.readouterr().out.splitlines() == first[-1:]


def test_the_command_prints_the_mean_of_a_trials_trainings(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, trials=1, replicates=2)
    monkeypatch.setattr(presets, "search", lambda _: settings)
    assert main(["--preset", "smoke", "--storage", "alpha.log"]) == 0
    [trial] = optuna.load_study(study_name=None, storage=open_storage("alpha.log")).trials
    assert trial.value != trial.intermediate_values[max(trial.intermediate_values)]
    [line, _] = capsys.readouterr().out.splitlines()
    assert f", validation error {trial.value:.2f} % after " in line
    assert line.endswith("complete")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--storage alpha.txt", "must be a database URL such as sqlite:///alpha.db or a journal"),
        ("--storage nowhere/alpha.log", "cannot open nowhere/alpha.log given as storage"),
        ("--storage sqlite:///nowhere/alpha.db", "unable to open database file; choose"),
        ("--storage sqlite:///garbage", "file is not a database; choose"),
        ("--storage nosql://me:secret@host/x", "cannot open the database given as storage"),
        (
            "--checkpoints s3://bucket/x",
            "--checkpoints is a folder of this machine, got s3://bucket/x",
        ),
        ("--dataset nosuch", "unknown data set 'nosuch'; choose one of digits"),
        ("--dataset folder:nowhere", "nowhere"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    (folder / "garbage").write_text("not a database, and long enough to be seen as none" * 10)
    assert main(["--preset", "smoke", *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("optuna_study: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert "secret" not in captured.err


def test_a_search_in_which_nothing_finishes_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: Any, **__: Any) -> None:
        raise DivergenceError("the loss became NaN", [])

    monkeypatch.setattr(optuna_study, "fit", diverge)
    assert main(["--preset", "smoke", "--storage", "alpha.log"]) == 2
    captured = capsys.readouterr()
    assert [line.split(": ")[0] for line in captured.out.splitlines()] == [
        "trial 0",
        "trial 1",
        "trial 2",
    ]
    assert "validation error - after 0 epochs, fail" in captured.out
    assert "none of the 3 trials of the search on digits finished" in captured.err


def test_it_is_interrupted_without_a_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(optuna_study, "fit", interrupt)
    assert main(["--preset", "smoke", "--storage", "alpha.log"]) == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on where it was\n"


def test_it_needs_no_ray() -> None:
    script = (
        "import sys, hpo.optuna_study; print([m for m in ('ray', 'mlflow') if m in sys.modules])"
    )
    root = Path(str(hpo.__file__)).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    assert run.stdout == "[]\n"

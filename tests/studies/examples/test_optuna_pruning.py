"""The Optuna example as a user runs it, small."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import optuna
import pytest
import torch
from optuna.pruners import MedianPruner
from optuna.trial import TrialState
from torch import Tensor

from studies.examples import optuna_pruning as example

Names = Callable[[Tensor], set[int]]


def test_it_prints_what_the_study_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    studies = []
    create = optuna.create_study
    monkeypatch.setattr(
        optuna, "create_study", lambda **kw: studies.append(create(**kw)) or studies[-1]
    )
    example.main(["--trials", "5", "--epochs", "4"])
    printed = capsys.readouterr()
    assert not printed.err
    (study,) = studies
    lines = printed.out.splitlines()
    assert [line.split()[0] for line in lines[1:6]] == [*"01234"]
    pruned = {t.number for t in study.trials if t.state == TrialState.PRUNED}
    assert pruned == {int(line.split()[0]) for line in lines if line.endswith("pruned")}
    assert pruned  # the fifth draw of the seeded sampler is a rate that diverges
    finished = [t for t in study.trials if t.number not in pruned]
    best = min(t.intermediate_values[4] for t in finished)
    assert f"error {best:.2f} %" in lines[-2]
    (tested,) = re.findall(r"test images: ([\d.]+) %", lines[-1])
    assert best < 20
    assert float(tested) < 20  # chance is 90
    (again,), first = example.search(1, 1).trials, study.trials[0]
    assert (again.params, again.value) == (first.params, first.intermediate_values[1])


def test_a_trial_that_learns_too_slowly_is_pruned_at_once() -> None:
    study = optuna.create_study(pruner=MedianPruner(n_startup_trials=1, n_warmup_steps=2))
    for lr in (0.1, 0.001):
        study.enqueue_trial({"lr": lr, "step_size": 4.0})
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study.optimize(lambda trial: example.objective(trial, 3), n_trials=2)
    good, slow = study.trials
    assert good.state == TrialState.COMPLETE
    assert [*good.intermediate_values] == [1, 2, 3]
    assert slow.state == TrialState.PRUNED
    assert [*slow.intermediate_values] == [1, 2]


def test_what_teaches_lambda_scores_no_trial(watch: Callable[[Any], Any], names_of: Names) -> None:
    watched = watch(example)
    study = optuna.create_study()
    study.enqueue_trial({"lr": 0.02, "step_size": 1.5})
    example.objective(study.ask(), 1)
    assert list(map(len, (watched.train, watched.meta, watched.score))) == [1000, 200, 297]
    used = watched.train | watched.meta | watched.score
    assert len(used) == 1497
    test = names_of(torch.stack([x for x, _ in example.split_digits()[3]]))
    assert len(test - used) == 300
    assert watched.steps == [(0.02, {"step_size": 1.5})] * 16


def test_a_trial_is_worth_its_last_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = iter([30.0, 10.0, 20.0])
    monkeypatch.setattr(example, "error", lambda model, images: next(errors))
    trial = optuna.create_study().ask()
    assert example.objective(trial, 3) == 20

"""The same numbers twice, in another process, after an interruption."""

from __future__ import annotations

import functools
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import core
import core.training.checkpoint
from core.policies import (
    AdaMixUpConfig,
    FrozenScheduleConfig,
    LearnedConfig,
    MetaWeightNetConfig,
    NoMix,
    ScoresConfig,
)
from core.training import training
from core.training.config import TrainingConfig
from core.training.fit import fit
from core.training.result import DivergenceError, Metrics
from tests.support.digit_trainings import Interrupted, digits, interrupt, numbers

EPOCHS, STEPS = 3, 3
"""Of every training here: 34 images in batches of 16, 16 and 2."""

MODELS: dict[str, dict[str, Any]] = {
    "digits_cnn": {},
    "cnn": {"width": 4},  # dropout
    "preact_resnet18": {"width": 4},  # BatchNorm
}
POLICIES = {
    "none": NoMix(),
    "learned": LearnedConfig(),
    # Three steps an epoch: 2 does not go into it, so the counts cross its borders.
    "amortised_placebo": LearnedConfig(permute=True, every=2, refresh_every=2, last_blocks=2),
    "scores": ScoresConfig(),
    "frozen_schedule": FrozenScheduleConfig(((0.0, 0.3, 1.0), (0.5, 0.9), (0.2, 0.2))),
    # Networks of their own.
    "meta_weight_net": MetaWeightNetConfig(),
    "adamixup": AdaMixUpConfig(),
}
"""One of each kind of state: that none of it is missing is in the contract of policies."""
CELLS = [
    TrainingConfig(
        "digits", model, policy, train_size=34, meta_size=20, epochs=EPOCHS, batch_size=16,
        meta_batch_size=8, lr=0.05, translate=1, **options,
    )
    for model, options in MODELS.items()
    for name, policy in POLICIES.items()
    # What a model carries and what a policy carries have nothing to do with each other, but
    # AdaMixUp has such a model of its own.
    if model == "cnn" or name == "none" or (model, name) == ("preact_resnet18", "adamixup")
]  # fmt: skip
CELLS += [
    replace(
        next(cell for cell in CELLS if cell.model == "cnn" and cell.policy == POLICIES["scores"]),
        loss="elr", sampling="balanced", class_weights="inverse", logit_adjustment=0.5,
    ),
]  # fmt: skip
CNN = next(cell for cell in CELLS if cell.model == "cnn" and cell.policy.kind == "learned")
named = functools.partial(
    pytest.mark.parametrize, "config", ids=lambda cell: f"{cell.model}-{cell.policy.kind}"
)

SCRIPT = """
import json, sys
from core.training.config import TrainingConfig
from core.training.fit import fit
for line in sys.stdin:
    print(json.dumps(fit(TrainingConfig.from_dict(json.loads(line))).to_dict()))
"""


@functools.cache
def whole(config: TrainingConfig) -> dict[str, Any]:
    """Returns the numbers of a training that nothing disturbs."""
    return numbers(fit(config, source=digits()))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one entry with every real training step."""
    taken: list[int] = []

    def counted(*args: Any, real: Callable[..., Any] = training.mixed_step, **more: Any) -> Any:
        taken.append(len(taken))
        return real(*args, **more)

    monkeypatch.setattr(training, "mixed_step", counted)
    return taken


@pytest.fixture
def each_epoch_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.training.fit.CHECKPOINT_SECONDS", 0.0)


def resume(config: TrainingConfig, directory: Path) -> dict[str, Any]:
    """Returns the numbers of the resumed training; `on_epoch` must have seen all epochs in
    order."""
    seen: list[Metrics] = []
    result = fit(config, source=digits(), directory=directory, on_epoch=seen.append)
    assert [m["epoch"] for m in seen] == list(range(1, config.epochs + 1))
    assert seen == result.history
    seconds = [m["train_seconds"] for m in seen]
    assert seconds == sorted(seconds)
    assert result.train_seconds == seconds[-1] > 0
    return numbers(result)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of torch's threads for the rest of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@named([next(cell for cell in CELLS if cell.model == model) for model in MODELS])
def test_other_numbers_by_another_seed(config: TrainingConfig) -> None:
    assert whole(config) != whole(replace(config, seed=1))


def test_the_same_numbers_in_a_fresh_process(tmp_path: Path) -> None:
    cells = CELLS[::3]
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input="\n".join(json.dumps(cell.to_dict()) for cell in cells),
        env={
            **os.environ,
            "PYTHONPATH": str(Path(core.__file__).parents[1]),
            "OMP_NUM_THREADS": "2",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    for cell, line in zip(cells, run.stdout.splitlines(), strict=True):
        assert numbers(json.loads(line)) == whole(cell)


OPTIMIZER = LearnedConfig(reading=replace(core.DEFAULT, inner_step="optimizer"))
SETTINGS: list[dict[str, Any]] = [
    {"optimizer": "adamw", "policy": OPTIMIZER},
    {"label_noise": 0.4, "imbalance": 2.0},
    {"normalisation": "gcn-zca", "padding": "reflect", "noise": 0.15},
]


@pytest.mark.usefixtures("each_epoch_kept")
@named([*CELLS, *(replace(CNN, **some) for some in SETTINGS)])
def test_dying_after_every_single_epoch_whatever_the_callers_state(
    config: TrainingConfig, tmp_path: Path, steps: list[int], threads: Callable[[int], None]
) -> None:
    expected = whole(config)
    assert (expected == whole(CNN)) == (config == CNN)
    torch.rand(7)
    threads(2)
    steps.clear()
    for at in range(1, EPOCHS + 1):
        interrupt(config, tmp_path, at)
    assert resume(config, tmp_path) == expected
    per_epoch = 2 if config.imbalance > 1 else STEPS
    assert len(steps) == EPOCHS * per_epoch  # nothing twice


@pytest.mark.parametrize(("at", "kept"), [(1, 0), (3, 2), (5, 5)])
def test_checkpoints_every_other_epoch(
    at: int, kept: int, tmp_path: Path, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which every epoch takes one second; the last epoch is kept in any case."""
    config = replace(CNN, epochs=5)
    expected = whole(config)
    clock = itertools.count()
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    monkeypatch.setattr("core.training.fit.CHECKPOINT_SECONDS", 2.0)
    interrupt(config, tmp_path, at)
    steps.clear()
    assert resume(config, tmp_path) == expected
    assert len(steps) == (5 - kept) * STEPS


def test_a_quick_training_keeps_only_its_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[int]
) -> None:
    saved: list[int] = []

    def counted(directory: Path, state: dict[str, Any]) -> None:
        saved.append(len(state["history"]))
        core.training.checkpoint.save_checkpoint(directory, state)

    monkeypatch.setattr("core.training.fit.save_checkpoint", counted)
    first = numbers(fit(CNN, source=digits(), directory=tmp_path))
    assert saved == [EPOCHS]
    steps.clear()
    assert resume(CNN, tmp_path) == first
    assert not steps


def test_a_checkpoint_of_another_configuration_is_ignored(tmp_path: Path, steps: list[int]) -> None:
    for change in ({"lr": 0.1}, {"policy": LearnedConfig(permute=True)}):
        other = replace(CNN, **change)
        expected = whole(other)
        fit(CNN, source=digits(), directory=tmp_path)
        steps.clear()
        assert resume(other, tmp_path) == expected
        assert len(steps) == EPOCHS * STEPS


@pytest.mark.usefixtures("each_epoch_kept")
@pytest.mark.parametrize("damaged", [1, 2])
def test_a_checkpoint_that_is_whole_and_none_of_the_training_is_passed_over(
    damaged: int, tmp_path: Path, steps: list[int]
) -> None:
    """Another version's; half of it loads. What was before it is used, or nothing."""
    expected = whole(CNN)
    interrupt(CNN, tmp_path, 2)
    for name in (core.training.checkpoint.CURRENT, core.training.checkpoint.PREVIOUS)[:damaged]:
        state = torch.load(tmp_path / name, weights_only=True)
        del state["rng"]
        torch.save(state, tmp_path / name)
    steps.clear()
    with pytest.warns(UserWarning, match=r"not one of this training \(KeyError\('rng'\)\)"):
        assert resume(CNN, tmp_path) == expected
    assert len(steps) == (EPOCHS - 2 + damaged) * STEPS


@pytest.mark.usefixtures("each_epoch_kept")
def test_a_diverged_training_diverges_again_with_its_whole_history(
    tmp_path: Path, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        training,
        "learning_rate",
        lambda _, step, steps: 0.05 if step < 2 * STEPS else 1e6,
    )
    histories = []
    for run in range(2):
        seen: list[Metrics] = []
        steps.clear()
        with pytest.raises(DivergenceError, match="diverged in epoch 3") as caught:
            fit(CNN, source=digits(), directory=tmp_path, on_epoch=seen.append)
        assert len(steps) == (EPOCHS - 2 * run) * STEPS
        assert caught.value.history == seen
        histories.append(seen)
    assert histories[0] == histories[1]
    assert len(histories[0]) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("each_epoch_kept")
@pytest.mark.parametrize(("first", "second"), [("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")])
def test_a_training_goes_on_on_another_device(first: str, second: str, tmp_path: Path) -> None:
    def die(metrics: Metrics) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        fit(CNN, source=digits(), directory=tmp_path, device=first, on_epoch=die)
    result = fit(CNN, source=digits(), directory=tmp_path, device=second)
    assert [m["epoch"] for m in result.history] == list(range(1, EPOCHS + 1))


def test_numbers_of_numpy_that_a_policy_counts_are_kept_as_pythons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint with others cannot be read, so that the epochs would be trained again."""
    monkeypatch.setattr(NoMix, "metrics", lambda self: {"mine": np.mean([1.0, 2.0])})
    fit(CELLS[0], source=digits(), directory=tmp_path)
    [state] = core.training.checkpoint.checkpoints(tmp_path)
    assert [epoch["mine"] for epoch in state["history"]] == [1.5] * EPOCHS

"""The Ray Tune example as a user runs it, small, and with a worker that dies."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import tune
from sklearn.datasets import load_digits
from torch import Tensor

from studies.examples import ray_tune_trainable as example
from tests.support.ray_command import RAYS_OWN_WARNINGS

pytestmark = RAYS_OWN_WARNINGS

STEPS = 16
"""In an epoch: 1000 images in batches of 64."""


KILLED = """
import os, runpy, sys
from ray import tune

script, lives, *sys.argv[1:] = sys.argv[1:]
with_resources = tune.with_resources


def mortal(train, lives=lives):
    def dies_after_two_epochs(config):
        report = tune.report
        first = not os.path.exists(lives)

        def then_die(metrics, **more):
            with open(lives, "a") as file:
                file.write(f"{metrics['epoch']} ")
            report(metrics, **more)
            if first and metrics["epoch"] == 2:
                os._exit(1)

        if config["init_alpha"] == 0.5:
            tune.report = then_die
        train(config)

    return dies_after_two_epochs


tune.with_resources = lambda train, resources: with_resources(mortal(train), resources)
runpy.run_path(script, run_name="__main__")
"""
"""Runs the script; the worker of the trial 0.5 dies once it has reported two epochs."""


@dataclass(frozen=True)
class Ran:
    """What the example printed, what each trial reported, and the epochs that the trial 0.5 did."""

    printed: list[str]
    output: Path
    trials: dict[float, list[dict[str, Any]]]
    lives: str


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Returns what is left of the example with two trials, a worker of which died."""
    output = tmp_path_factory.mktemp("ran")
    lives = output / "lives"
    arguments = ["--alphas", "2", "0.5", "--epochs", "3", "--output", str(output)]
    # What `hpo` sets for its own driver must not reach a program that knows nothing of it.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TUNE_")}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(example.__file__), str(lives), *arguments],
        cwd=output,
        env=environment | {"RAY_AIR_NEW_OUTPUT": "0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Nothing is told but the death: by Tune, and on standard output by Ray.
    [death] = re.findall(r"^\d{4}-\d\d-\d\d \S+\t(.*)", done.stderr, re.MULTILINE)
    assert "Trial task failed for trial dies_after_two_epochs" in death
    assert "Warning" not in done.stderr
    printed = [line for line in done.stdout.splitlines() if "(raylet)" not in line]
    return Ran(printed, output, reports(output), lives.read_text())


def reports(output: Path) -> dict[float, list[dict[str, Any]]]:
    """Returns what each trial reported, by its init_alpha, from the files that Tune leaves."""
    trials = {}
    for file in output.rglob("result.json"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        trials[lines[0]["config"]["init_alpha"]] = lines
    return trials


def alone(monkeypatch: pytest.MonkeyPatch, alpha: float, epochs: int) -> list[tuple[Any, ...]]:
    """Returns what the trainable reports in this process, without Ray."""
    seen: list[tuple[Any, ...]] = []
    with monkeypatch.context() as patch:
        patch.setattr(tune, "get_checkpoint", lambda: None)
        patch.setattr(
            tune,
            "report",
            lambda m, checkpoint: seen.append((m["epoch"], m["steps"], m["error"])),
        )
        example.train({"init_alpha": alpha, "epochs": epochs})
    return seen


def told(reported: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(m["epoch"], m["steps"], m["error"]) for m in reported]


@pytest.mark.slow
def test_it_prints_what_the_trials_reported(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    printed, trials = ran.printed, ran.trials
    assert len(printed) == 5
    assert [*sorted(trials)] == [0.5, 2.0]
    for line, (alpha, reported) in zip(printed[1:3], sorted(trials.items()), strict=True):
        assert [float(word) for word in line.split()] == pytest.approx(
            [alpha, reported[-1]["error"], 3, 3 * STEPS], abs=1e-6
        )
        assert told(reported) == alone(monkeypatch, alpha, 3)
    best = min(trials, key=lambda alpha: trials[alpha][-1]["error"])
    best_error = trials[best][-1]["error"]
    assert printed[3] == f"best: init_alpha {best:g}, error {best_error:.2f} %"
    assert best_error < 20  # chance is 90

    (file,) = ran.output.rglob(f"*init_alpha={best:.4f}*/checkpoint_*/state.pt")
    model = example.make_model()
    model.load_state_dict(torch.load(file, weights_only=True)["model"])
    x, y = example.split_digits()[3]
    with torch.inference_mode():
        wrong = [
            int(model(image[None]).argmax()) != int(label)
            for image, label in zip(x, y, strict=True)
        ]
    (tested,) = re.findall(r"test images: ([\d.]+) %", printed[4])
    assert float(tested) == pytest.approx(100 * sum(wrong) / 300, abs=0.01)


@pytest.mark.slow
def test_a_killed_worker_goes_on_from_its_checkpoint(ran: Ran) -> None:
    """To the numbers of an undisturbed one, see above."""
    assert ran.lives == "1 2 3 "  # no epoch twice: the second life began with the third
    reported = ran.trials[0.5]
    assert [m["pid"] for m in reported[:2]] != [m["pid"] for m in reported[2:]]
    assert [m["steps"] for m in reported] == [STEPS, 2 * STEPS, 3 * STEPS]


def test_what_teaches_lambda_scores_no_trial(
    watch: Callable[[Any], Any],
    monkeypatch: pytest.MonkeyPatch,
    names_of: Callable[[Tensor], set[int]],
) -> None:
    watched = watch(example)
    alone(monkeypatch, 0.3, 1)
    assert [settings["reading"].init_alpha for _, settings in watched.steps] == [0.3] * STEPS
    parts = [names_of(x) for x, _ in example.split_digits()]
    assert [watched.train, watched.score] == [parts[0], parts[2]]
    assert watched.meta <= parts[1]
    assert len(watched.meta) > 190  # of 200, drawn with replacement


def test_the_four_parts_share_no_image() -> None:
    parts = example.split_digits()
    assert [len(x) for x, _ in parts] == [1000, 200, 297, 300]
    drawn = torch.cat([x for x, _ in parts]).reshape(-1, 64).numpy() * 16
    digits = load_digits()
    assert len(np.unique(drawn, axis=0)) == 1797
    order = np.lexsort(drawn.T), np.lexsort(digits.data.T)
    np.testing.assert_array_equal(drawn[order[0]], digits.data[order[1]])
    labels = torch.cat([y for _, y in parts]).numpy()
    np.testing.assert_array_equal(labels[order[0]], digits.target[order[1]])

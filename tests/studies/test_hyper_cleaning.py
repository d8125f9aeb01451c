"""The public hyper-cleaning problem: its losses by hand, its draws, its solution at tiny size."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor

import core
from hpo.bench.hyper_cleaning import (
    START,
    Found,
    Problem,
    draw_problem,
    inner_solution,
    report,
    soba,
    trained,
)
from studies import hyper_cleaning
from studies.hyper_cleaning import main


def test_the_losses_by_hand() -> None:
    """Probabilities of the labels are 3/4 and 1/10 in training and 1/4 in validation."""
    x, y = torch.tensor([[1.0], [2.0]]).double(), torch.tensor([0, 1])
    one = x[:1], torch.tensor([1])
    problem = Problem((x, y), one, one, torch.zeros(2, dtype=torch.bool), 2)
    w = torch.tensor([[math.log(3)], [0.0]], dtype=torch.float64)
    weights = torch.tensor([0.5, 0.25], dtype=torch.float64)
    inner = (0.5 * 0.2876820724 + 0.25 * 2.3025850930) / 2 + 0.2 * 1.0986122887**2
    assert float(problem.inner(w, weights)) == pytest.approx(inner, rel=1e-9)
    assert float(problem.outer(w)) == pytest.approx(1.3862943611, rel=1e-9)


def test_it_is_drawn_as_the_suite_draws() -> None:
    """The lines of datasets/mnist.py of benchopt/benchmark_bilevel, with its own libraries."""
    r = np.random.default_rng(0)
    images = r.integers(0, 256, (300, 1, 3, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = 7  # a pixel that never changes
    labels = np.arange(300) % 10
    problem = draw_problem(
        (images, labels), (images[:20], labels[:20]), ratio=0.5, train_size=200, val_size=50
    )
    rng = np.random.RandomState(32)
    X, y = images.reshape(300, -1), labels
    X_train, X_val, y_train, y_val = train_test_split(
        X, y, test_size=50, train_size=200, random_state=rng
    )
    true = y_train.copy()
    corrupted = rng.rand(200) < 0.5
    y_train[corrupted] = rng.randint(0, 10, np.sum(corrupted))
    scaler = StandardScaler().fit(X_train)
    for (x, y_found), X_part, y_part in (
        (problem.train, X_train, y_train),
        (problem.validation, X_val, y_val),
        (problem.test, X[:20], labels[:20]),
    ):
        np.testing.assert_allclose(x.numpy(), scaler.transform(X_part), rtol=1e-5, atol=1e-5)
        assert y_found.tolist() == y_part.tolist()
    assert problem.wrong.tolist() == (y_train != true).tolist()


def tiny(train: int = 12, seed: int = 3) -> Problem:
    """Returns two clusters on a plane; a third of the training labels are wrong."""
    r = torch.Generator().manual_seed(seed)

    def part(n: int) -> tuple[Tensor, Tensor]:
        y = torch.arange(n) % 2
        x = torch.randn(n, 2, generator=r).double() + 1.2 * torch.stack([2 * y - 1, 1 - 2 * y], 1)
        return x, y

    (x, y), validation, test = part(train), part(40), part(40)
    wrong = torch.arange(train) % 3 == 0
    return Problem((x, torch.where(wrong, 1 - y, y)), validation, test, wrong, 2)


def test_the_inner_solution_is_that_of_another_library() -> None:
    problem = tiny(30)
    weights = torch.linspace(0.1, 1, 30).double()
    x, y = (part.numpy() for part in problem.train)
    # sklearn minimizes C Σ w ℓ + ‖β‖²/2 of one logit β; two logits W with β = W₁ − W₀ cost half.
    other = LogisticRegression(C=1 / (0.2 * 30), fit_intercept=False, tol=1e-10, max_iter=1000)
    other.fit(x, y, sample_weight=weights.numpy())
    w = inner_solution(problem, weights)
    np.testing.assert_allclose((w[1] - w[0]).numpy(), other.coef_[0], rtol=1e-5)
    np.testing.assert_allclose((w[1] + w[0]).numpy(), 0, atol=1e-8)


def value(problem: Problem, x: np.ndarray) -> float:
    """f at x, by Newton's method on the one logit β = W₁ − W₀, whose penalty is 0.1 ‖β‖²."""

    def signed(part: tuple[Tensor, Tensor]) -> np.ndarray:
        return (part[0] * (2 * part[1] - 1)[:, None]).numpy()

    points, weights, beta = signed(problem.train), expit(x), np.zeros(2)
    for _ in range(12):
        p = expit(-points @ beta)
        slope = -(weights * p) @ points / len(x) + 0.2 * beta
        bend = (points * (weights * p * (1 - p))[:, None]).T @ points / len(x) + 0.2 * np.eye(2)
        beta = beta - np.linalg.solve(bend, slope)
    return float(np.log1p(np.exp(-signed(problem.validation) @ beta)).mean())


def test_solvers_come_near_the_exact_solution_of_a_tiny_problem() -> None:
    """The least f over all x, by differences of f at exact inner solutions from four starts."""
    problem, r = tiny(), np.random.default_rng(0)
    start = np.full(12, START)
    starts = [start, *r.normal(0, 2, (3, 12))]
    least = min(
        minimize(lambda x: value(problem, x), x, bounds=[(-20, 20)] * 12).fun for x in starts
    )
    at_start = value(problem, start)
    still = report(problem, Found(torch.zeros(2, 2), torch.from_numpy(start)))
    assert still["value"] == pytest.approx(at_start, abs=1e-6)
    assert at_start - least > 0.05
    policy = core.PersistentWeights(reading=core.Reading(step_size=0.3), initial=START)
    for actual in (trained(problem, policy, 60, rate=0.1), soba(problem, 300, 0.5, 0.01)):
        line = report(problem, actual)
        # It is least where weights are 0 and 1, beyond all bounds of x.
        assert least - 1e-3 < line["value"] < least + 0.1 * (at_start - least)


def test_the_report_on_paper() -> None:
    problem = tiny(4)  # samples 0 and 3 are wrong
    x = torch.tensor([-1.0, 0.0, -1.0, 1.0], dtype=torch.float64)
    line = report(problem, Found(torch.zeros(2, 2), x))
    # Against the right ones, 0 and −1: of −1 a win and a tie, of 1 none.
    assert line["detection"] == (1 + 0.5 + 0 + 0) / 4
    assert line["test_error"] == 50  # all equal, and half are of class 0
    for wrong in (torch.zeros(4), torch.ones(4)):  # nothing to tell apart
        line = report(replace(problem, wrong=wrong.bool()), Found(torch.zeros(2, 2), x))
        assert math.isnan(line["detection"])
    assert set(report(problem, Found(torch.zeros(2, 2)))) == {"test_error", "val_error"}


SMALL = ["--dataset", "digits", "--train-size", "80", "--val-size", "40", "--epochs", "1"]


def test_the_script_prints_a_table_and_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solvers = ["start", "oracle", "soba", "persistent-weights", "l2rw", "meta-weight-net"]
    assert main([*SMALL, "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    frame = pd.read_csv(tmp_path / "hyper_cleaning.csv")
    assert frame["solver"].tolist() == solvers
    assert all(f"| {name} " in printed for name in solvers)
    assert frame["value"].notna().tolist() == [True] * 4 + [False] * 2
    assert frame["detection"].tolist()[:2] == [0.5, 1.0]


def test_a_folder_that_cannot_be_is_told_before_the_first_solver(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hyper_cleaning, "report", lambda *_: pytest.fail("it was trained"))
    (tmp_path / "file").touch()
    assert main([*SMALL, "--output", str(tmp_path / "file")]) == 2
    said = "hyper_cleaning: error: cannot write to the output folder"
    assert capsys.readouterr().err.startswith(said)
    if Path("/proc").is_dir():  # a folder that takes no file, for root either
        assert main([*SMALL, "--output", "/proc"]) == 2
        assert capsys.readouterr().err.startswith(said)


def test_an_interruption_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hyper_cleaning, "report", interrupted)
    assert main(SMALL) == 130
    assert capsys.readouterr().err == "hyper_cleaning: interrupted; nothing is kept\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--solvers", "start,sobba"], "unknown solver 'sobba'; choose among start, oracle, soba"),
        (["--ratio", "1.5"], r"--ratio must lie in [0, 1], got 1.5"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--train-size", "5000"], "are more than the 1297 there are; lower --train-size"),
    ],
)
def test_bad_flags_give_one_line(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("hyper_cleaning: error: ")
    assert error.count("\n") == 1

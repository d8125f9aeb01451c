from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler

from hpo.search.spaces import BETA_ALPHA, Float, Int, Space, suggest, threshold_fall, tune_space

SPACE: Space = {"alpha": Float(0.1, 10.0, log=True), "step": Float(-1.0, 3.0)}


def quartiles_by_optuna() -> dict[str, np.ndarray]:
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    drawn = [suggest(study.ask(), SPACE) for _ in range(600)]
    return {name: np.quantile([d[name] for d in drawn], [0, 0.25, 0.5, 0.75, 1]) for name in SPACE}


def quartiles_by_tune() -> dict[str, np.ndarray]:
    space = tune_space(SPACE)
    random = np.random.RandomState(0)
    return {
        name: np.quantile(domain.sample(size=600, random_state=random), [0, 0.25, 0.5, 0.75, 1])
        for name, domain in space.items()
    }


@pytest.mark.parametrize("road", ["optuna", "tune"])
def test_every_framework_draws_from_the_declared_space(road: str) -> None:
    """Log-uniform on [0.1, 10]: quartiles at 10^-0.5, 1, 10^0.5; uniform on [-1, 3]: 0, 1, 2."""
    found = quartiles_by_tune() if road == "tune" else quartiles_by_optuna()
    low, *inner, high = found["alpha"]
    assert 0.1 <= low < 0.11
    assert 9.0 < high <= 10.0
    np.testing.assert_allclose(np.log10(inner), [-0.5, 0.0, 0.5], atol=0.12)
    low, *inner, high = found["step"]
    assert -1.0 <= low < -0.97
    assert 2.97 < high <= 3.0
    np.testing.assert_allclose(inner, [0.0, 1.0, 2.0], atol=0.25)


@pytest.mark.parametrize("log", [False, True])
def test_whole_numbers_are_drawn_with_both_ends(log: bool) -> None:
    space: Space = {"k": Int(2, 5, log=log)}
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    by_optuna = [suggest(study.ask(), space)["k"] for _ in range(200)]
    random = np.random.RandomState(0)
    by_tune = tune_space(space)["k"].sample(size=200, random_state=random)
    for drawn in (by_optuna, by_tune):
        assert set(drawn) == {2, 3, 4, 5}
        assert all(isinstance(k, (int, np.integer)) for k in drawn)


def test_the_fall_of_the_threshold_is_searched_around_the_papers() -> None:
    for epochs in (2, 40, 200):
        space = threshold_fall(epochs)
        step, period = space["threshold_step"], space["threshold_period"]
        assert step.low < 0.01 < 0.2 < step.high
        assert isinstance(period, Int)
        assert 1 <= period.low < period.high <= max(2, epochs)
        assert period.high >= 0.15 * epochs


def test_alpha_is_searched_around_one_on_a_log_scale() -> None:
    alpha = BETA_ALPHA["alpha"]
    assert alpha.log
    assert alpha.low < 0.2 < math.sqrt(alpha.low * alpha.high) < 1.0 < 4.0 < alpha.high


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2.0, 1.0), r"low must be below high, got \[2.0, 1.0\]"),
        ((1.0, 1.0), "low must be below high"),
        ((float("nan"), 1.0), "low must be below high"),
        ((0.0, 1.0, True), "needs low > 0, got 0.0"),
        ((-1.0, 1.0, True), "needs low > 0, got -1.0"),
    ],
)
def test_an_impossible_range_is_refused(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Float(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 2), r"low must be below high, got \[2, 2\]"),
        ((0, 3, True), "needs low >= 1, got 0"),
    ],
)
def test_an_impossible_range_of_whole_numbers_is_refused(
    arguments: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Int(*arguments)  # type: ignore[arg-type]

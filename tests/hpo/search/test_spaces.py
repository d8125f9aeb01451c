from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler

from hpo.search.spaces import BETA_ALPHA, Float, Int, Space, suggest, threshold_fall

SPACE: Space = {"alpha": Float(0.1, 10.0, log=True), "step": Float(-1.0, 3.0)}


def drawn(space: Space, name: str, number: int) -> list[float]:
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    return [suggest(study.ask(), space)[name] for _ in range(number)]


def test_a_search_draws_from_the_declared_space() -> None:
    """Log-uniform on [0.1, 10]: quartiles at 10^-0.5, 1, 10^0.5; uniform on [-1, 3]: 0, 1, 2."""
    low, *inner, high = np.quantile(drawn(SPACE, "alpha", 600), [0, 0.25, 0.5, 0.75, 1])
    assert 0.1 <= low < 0.11
    assert 9.0 < high <= 10.0
    np.testing.assert_allclose(np.log10(inner), [-0.5, 0.0, 0.5], atol=0.12)
    low, *inner, high = np.quantile(drawn(SPACE, "step", 600), [0, 0.25, 0.5, 0.75, 1])
    assert -1.0 <= low < -0.97
    assert 2.97 < high <= 3.0
    np.testing.assert_allclose(inner, [0.0, 1.0, 2.0], atol=0.25)


@pytest.mark.parametrize("log", [False, True])
def test_whole_numbers_are_drawn_with_both_ends(log: bool) -> None:
    numbers = drawn({"k": Int(2, 5, log=log)}, "k", 200)
    assert set(numbers) == {2, 3, 4, 5}
    assert all(isinstance(k, int) for k in numbers)


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
    ("kind", "arguments", "message"),
    [
        (Float, (2.0, 1.0), r"low must be below high, got \[2.0, 1.0\]"),
        (Float, (1.0, 1.0), "low must be below high"),
        (Float, (float("nan"), 1.0), "low must be below high"),
        (Float, (0.0, 1.0, True), "needs low > 0, got 0.0"),
        (Float, (-1.0, 1.0, True), "needs low > 0, got -1.0"),
        (Int, (2, 2), r"low must be below high, got \[2, 2\]"),
        (Int, (0, 3, True), "needs low > 0, got 0"),
    ],
)
def test_an_impossible_range_is_refused(
    kind: type[Float], arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kind(*arguments)

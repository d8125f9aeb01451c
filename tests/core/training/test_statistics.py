from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from statistics import fmean

import pytest
import torch

from core.mixing.interpolation import Interpolation
from core.training.statistics import BINS, PART_LEVELS, LambdaSchedule, LambdaStatistics


def given(lam: list[float], **learned: torch.Tensor) -> Interpolation:
    values = torch.tensor(lam)
    return Interpolation(values, torch.arange(len(lam)), values, **learned)


def test_quantiles_by_hand() -> None:
    """λ = 0.00, 0.01, …, 1.00 in two shuffled batches: the q-quantile is q itself."""
    values = torch.arange(101)[torch.randperm(101)] / 100
    statistics = LambdaStatistics()
    statistics.add(given(values[:40].tolist()))
    statistics.add(given(values[40:].tolist()))
    assert statistics.metrics() == pytest.approx(
        {
            "lam_mean": 0.5,
            "lam_q05": 0.05,
            "lam_q25": 0.25,
            "lam_q50": 0.5,
            "lam_q75": 0.75,
            "lam_q95": 0.95,
        },
        rel=1e-6,
    )


def test_learned_policies_report_change_and_hypergradient() -> None:
    statistics = LambdaStatistics()
    statistics.add(
        given([0.2, 0.4], change=torch.tensor([0.1, -0.3]), hypergradient=torch.tensor([3.0, 4.0]))
    )
    statistics.add(given([0.9], change=torch.tensor([-0.5]), hypergradient=torch.tensor([0.0])))
    metrics = statistics.metrics()
    assert metrics["lam_change"] == pytest.approx(0.3)
    assert metrics["hypergradient_rms"] == pytest.approx(math.sqrt(25 / 3))
    assert metrics["lam_mean"] == pytest.approx(0.5)


def test_histogram_counts_bins_with_both_ends() -> None:
    statistics = LambdaStatistics()
    statistics.add(given([0.0, 0.01, 0.26, 0.99, 1.0]))
    statistics.add(given([0.26]))
    counts = statistics.histogram()
    assert len(counts) == BINS == 20
    assert {i: c for i, c in enumerate(counts) if c} == {0: 2, 5: 2, 19: 2}
    assert all(type(c) is int for c in counts)


def test_one_lam_of_a_whole_batch_and_double_precision() -> None:
    statistics = LambdaStatistics()
    lam = torch.tensor([0.72], dtype=torch.float64).expand(4)
    statistics.add(Interpolation(lam, torch.arange(4), lam))
    metrics = statistics.metrics()
    assert set(metrics) == {"lam_mean", "lam_q05", "lam_q25", "lam_q50", "lam_q75", "lam_q95"}
    assert all(value == pytest.approx(0.72) for value in metrics.values())
    assert {i: c for i, c in enumerate(statistics.histogram()) if c} == {14: 4}


def test_later_changes_of_a_tensor_do_not_count() -> None:
    statistics = LambdaStatistics()
    lam = torch.tensor([0.3], requires_grad=True)
    statistics.add(Interpolation(lam, torch.tensor([0]), lam))
    assert statistics.metrics()["lam_mean"] == pytest.approx(0.3)


def test_the_quantile_function_by_hand() -> None:
    """λ = 0.2, 0.4 and 1: level 0.5 is the middle one, and between them it is linear."""
    statistics = LambdaStatistics()
    statistics.add(given([1.0, 0.2]))
    statistics.add(given([0.4]))
    actual = statistics.quantile_function()
    assert len(actual) == 101
    expected = [0.2 + 0.4 * p / 100 if p <= 50 else 0.4 + 1.2 * (p - 50) / 100 for p in range(101)]
    assert actual == pytest.approx(expected, abs=1e-6)
    assert actual == sorted(actual)
    assert all(value == round(value, 6) for value in actual)


def test_the_quantile_function_of_one_lam_is_that_lam() -> None:
    statistics = LambdaStatistics()
    statistics.add(given([0.3, 0.3]))
    assert statistics.quantile_function() == [0.3] * 101


def epoch_of(*lam: float) -> LambdaStatistics:
    statistics = LambdaStatistics()
    statistics.add(given(list(lam)))
    return statistics


def test_a_schedule_has_a_part_an_epoch_where_epochs_are_few() -> None:
    schedule = LambdaSchedule(3)
    for epoch, lam in enumerate((0.25, 0.5, 0.75)):
        assert schedule.complete() == []
        schedule.add(epoch, epoch_of(lam))
    assert schedule.complete() == [[lam] * PART_LEVELS for lam in (0.25, 0.5, 0.75)]


def epoch_in_steps(steps: int, lam: Callable[[int], float]) -> LambdaStatistics:
    statistics = LambdaStatistics()
    for step in range(steps):
        statistics.add(given([0.0, lam(step)]))
    return statistics


@pytest.mark.parametrize(("epochs", "steps"), [(27, 1), (13, 12), (24, 5), (90, 7), (20, 3)])
def test_a_schedule_takes_the_mean_of_the_steps_of_a_part(epochs: int, steps: int) -> None:
    """The parts are those that the frozen control draws from, step by step.

    With λ = 0 and the number of the epoch the upper ends of a part are those of its epochs.
    """
    schedule, resumed = LambdaSchedule(epochs), LambdaSchedule(epochs)
    values: dict[int, list[float]] = defaultdict(list)
    for epoch in range(epochs):
        resumed.parts = schedule.parts
        for each in (schedule, resumed):
            each.add(epoch, epoch_in_steps(steps, lambda _, epoch=epoch: epoch / 100))
        for step in range(steps):
            values[12 * (epoch * steps + step) // (epochs * steps)].append(epoch / 100)
    means = [fmean(values[part]) for part in range(12)]
    parts = schedule.complete()
    assert [part[-1] for part in parts] == pytest.approx(means, abs=1e-4)
    assert [part[25] for part in parts] == pytest.approx([m / 2 for m in means], abs=1e-4)
    assert all(part[0] == 0 for part in parts)
    assert resumed.complete() == parts


@pytest.mark.parametrize(("epochs", "mixed"), [(20, 17), (13, 6), (5, 2), (24, 23)])
def test_a_schedule_ends_where_mixing_does(epochs: int, mixed: int) -> None:
    schedule = LambdaSchedule(epochs)
    for epoch in range(epochs):
        upper = 0.5 if epoch < mixed else 1.0
        schedule.add(epoch, epoch_in_steps(3, lambda _, at=upper: at), mixed=epoch < mixed)
    assert [part[-1] for part in schedule.complete()] == [0.5] * min(epochs, 12)
    none = LambdaSchedule(3)
    for epoch in range(3):
        none.add(epoch, epoch_of(1.0), mixed=False)
    assert none.complete() == []


def test_a_schedule_without_its_beginning_is_none() -> None:
    late, nothing = LambdaSchedule(3), LambdaSchedule(3)
    for epoch in range(3):
        nothing.add(epoch, LambdaStatistics())
        if epoch:
            late.add(epoch, epoch_of(0.5))
    assert late.complete() == nothing.complete() == []

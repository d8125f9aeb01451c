"""Packing jobs, against schedules worked out by hand."""

from __future__ import annotations

import pytest

from hpo.bench.estimate.schedule import Timed, chains, makespan


def timed(*seconds: float) -> list[Timed]:
    return [Timed(f"{i}", s) for i, s in enumerate(seconds)]


@pytest.mark.parametrize(("machines", "expected"), [(1, 18), (2, 10), (3, 7), (5, 5), (9, 5)])
def test_the_longest_go_first(machines: int, expected: float) -> None:
    """On two machines 5 + 3 and 4 + 3, and the last 3 behind the 7: 10, where the best is 9."""
    assert makespan(timed(3, 3, 5, 4, 3), machines) == expected


def test_a_job_waits_for_the_one_that_it_follows() -> None:
    jobs = [Timed("c", 4), Timed("b", 3, after="a"), Timed("a", 2)]
    assert makespan(jobs, 1) == 9
    assert makespan(jobs, 2) == 5  # a, then b beside c
    assert makespan([*jobs, Timed("d", 2, after="a")], 2) == 6  # b on a's machine, d on c's


def test_a_long_chain_goes_before_a_long_job() -> None:
    jobs = [Timed("long", 5), Timed("first", 1), Timed("then", 6, after="first")]
    assert makespan(jobs, 1) == 12
    assert makespan(jobs, 2) == 7


def test_chains_are_the_time_that_no_number_of_machines_goes_below() -> None:
    jobs = [Timed("a", 2), Timed("b", 3, after="a"), Timed("c", 1, after="b"), Timed("d", 4)]
    assert chains(jobs) == {"a": 6, "b": 4, "c": 1, "d": 4}
    assert makespan(jobs, 100) == 6


def test_nothing_takes_no_time() -> None:
    assert makespan([], 3) == 0


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ([Timed("a", 1), Timed("a", 2)], "same"),
        ([Timed("a", 1, after="b")], "waits for b"),
        ([Timed("a", 1, after="b"), Timed("b", 1, after="a")], "waits for itself"),
    ],
)
def test_jobs_that_cannot_be_packed(jobs: list[Timed], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        makespan(jobs, 1)
    with pytest.raises(ValueError, match="machines"):
        makespan([], 0)

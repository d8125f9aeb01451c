from __future__ import annotations

from collections.abc import Callable

import pytest

from hpo.bench.cost.timing import interleaved, orders, ratio


class Clock:
    """Time passes only when somebody works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def work(self, name: str, seconds: float) -> Callable[[], None]:
        def step() -> None:
            self.log.append(name)
            self.now += seconds

        return step


def run(clock: Clock, steps: dict[str, Callable[[], None]], rounds: int, **every: int):
    failed: list[tuple[str, str]] = []

    def idle(what: str) -> Callable[[], None]:
        def wait() -> None:
            clock.log.append(what)
            clock.now += 100.0 if what == "before" else 0.0

        return wait

    times = interleaved(
        steps,
        rounds=rounds,
        seed=3,
        every={name: every.get(name, 1) for name in steps},
        before=idle("before"),
        synchronize=idle("wait"),
        on_error=lambda name, error: failed.append((name, str(error))),
        clock=lambda: clock.now,
    )
    return times, failed


def test_each_round_has_everybody_once_in_an_order_of_its_own() -> None:
    names = list("abcdefgh")
    drawn = list(orders(names, 20, seed=1))
    assert all(sorted(order) == names for order in drawn)
    assert len({tuple(order) for order in drawn}) > 15
    assert drawn == list(orders(names, 20, seed=1)) != list(orders(names, 20, seed=2))


def test_contenders_take_turns_and_only_their_own_work_is_timed() -> None:
    clock = Clock()
    steps = {name: clock.work(name, seconds) for name, seconds in (("a", 1.0), ("b", 2.0))}
    times, failed = run(clock, steps, 4)
    assert times == {"a": [1.0] * 4, "b": [2.0] * 4}
    assert not failed
    worked = [name for name in clock.log if name in steps]
    assert [sorted(worked[i : i + 2]) for i in range(0, 8, 2)] == [["a", "b"]] * 4
    # Put back before, the device idle before the clock starts and before it stops.
    assert clock.log[:4] == ["before", "wait", worked[0], "wait"]


def test_what_repeats_after_some_steps_is_timed_over_them_and_divided() -> None:
    clock = Clock()
    seconds = iter([5.0, 1.0, 1.0, 1.0] * 3)

    def now_and_then() -> None:
        clock.now += next(seconds)

    times, _ = run(clock, {"every": now_and_then}, 3, every=4)
    assert times == {"every": [2.0] * 3}


def test_a_contender_that_raises_is_told_of_and_left_out() -> None:
    clock = Clock()
    calls = 0

    def breaks() -> None:
        nonlocal calls
        calls += 1
        clock.now += 1
        if calls == 3:
            raise RuntimeError("no more")

    times, failed = run(clock, {"a": clock.work("a", 1.0), "b": breaks}, 5)
    assert times == {"a": [1.0] * 5}
    assert failed == [("b", "no more")]
    assert calls == 3


def test_ctrl_c_is_not_held_against_a_contender() -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Clock(), {"a": stopped}, 1)


def test_the_ratio_is_of_medians_its_quartiles_of_the_rounds() -> None:
    times = ratio([4.0, 10.0, 6.0, 8.0, 30.0], [1.0, 2.0, 2.0, 2.0, 10.0])
    # Medians 8 and 2; by round 4, 5, 3, 4, 3: sorted 3, 3, 4, 4, 5.
    assert (times.ratio, times.low, times.high) == (4.0, 3.0, 4.0)
    one = ratio([3.0], [2.0])
    assert (one.ratio, one.low, one.high) == (1.5, 1.5, 1.5)
    with pytest.raises(ValueError, match="same rounds, got 1 and 2"):
        ratio([1.0], [1.0, 2.0])

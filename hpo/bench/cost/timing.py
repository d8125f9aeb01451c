"""Times of several contenders taken in turns, so that whatever slows the machine slows them all."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

Step = Callable[[], None]


@dataclass(frozen=True)
class Ratio:
    """A ratio is a time in units of another: of the medians, and quartiles of those by round."""

    ratio: float
    low: float
    high: float


def orders(names: Sequence[str], rounds: int, seed: int) -> Iterator[list[str]]:
    """Yields the order of each round: all names once, shuffled by a generator of its own."""
    generator = random.Random(seed)
    for _ in range(rounds):
        order = list(names)
        generator.shuffle(order)
        yield order


def interleaved(
    steps: Mapping[str, Step],
    *,
    rounds: int,
    seed: int,
    every: Mapping[str, int],
    before: Callable[[], None],
    synchronize: Callable[[], None],
    on_error: Callable[[str, Exception], None],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Times one step of each contender, once a round, in shuffled order.

    Args:
        steps: what is timed, by name; warmed up already.
        rounds: of all contenders.
        seed: of the orders.
        every: steps that are timed together and divided, by name.
        before: called before each one's turn, not timed.
        synchronize: waits for the device.
        on_error: called with a contender that raised; it is left out from then on.
        clock: seconds.

    Returns:
        One time for each round, by name; a contender that raised has none.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for order in orders(list(steps), rounds, seed):
        for name in order:
            if name not in times:
                continue
            before()
            try:
                synchronize()
                begun = clock()
                for _ in range(every[name]):
                    steps[name]()
                synchronize()
                times[name].append((clock() - begun) / every[name])
            except Exception as error:
                del times[name]
                on_error(name, error)
    return times


def ratio(times: Sequence[float], unit: Sequence[float]) -> Ratio:
    """Returns `times` in units of `unit`, both one for each round of the same rounds.

    Raises:
        ValueError: they are not of the same rounds, or there is none.
    """
    if len(times) != len(unit) or not times:
        raise ValueError(f"need times of the same rounds, got {len(times)} and {len(unit)}")
    by_round = [t / u for t, u in zip(times, unit, strict=True)]
    if len(by_round) == 1:
        low = high = by_round[0]
    else:
        low, _, high = statistics.quantiles(by_round, n=4, method="inclusive")
    return Ratio(statistics.median(times) / statistics.median(unit), low, high)

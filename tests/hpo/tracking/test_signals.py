from __future__ import annotations

import signal
import threading

import pytest

from hpo.tracking.signals import signals_held_back

pytestmark = pytest.mark.usefixtures("interruptible")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_the_block(number: signal.Signals) -> None:
    seen: list[int] = []
    before = signal.signal(number, lambda n, _: seen.append(n))
    handler = signal.getsignal(number)
    try:
        with signals_held_back():
            signal.raise_signal(number)
            assert seen == []
        assert seen == [number]
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("presses", [1, 2])
def test_an_interrupt_comes_after_the_last_statement_and_a_second_one_at_once(presses: int) -> None:
    done: list[int] = []

    def block() -> None:
        with signals_held_back():
            for press in range(presses):
                signal.raise_signal(signal.SIGINT)
                done.append(press)

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == [0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_are_left_alone() -> None:
    handlers: list[object] = []

    def work() -> None:
        with signals_held_back():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]

from __future__ import annotations

import signal
import sys
import threading
import time

import pytest

from hpo.tracking.signals import exit_on_signals, restore_signals, signals_held_back

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


class Finalized:
    """Raises a signal as it is finalized, where Python drops the exception that comes of it."""

    def __init__(self, number: int):
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_that_strikes_while_an_object_is_finalized_comes_again(
    number: signal.Signals, raised: type[BaseException], capfd: pytest.CaptureFixture[str]
) -> None:
    before, hook = signal.signal(signal.SIGTERM, signal.SIG_DFL), sys.unraisablehook
    exit_on_signals()
    try:
        Finalized(number)  # raises nothing here
        with pytest.raises(raised):
            time.sleep(30)
    finally:
        restore_signals()
        signal.signal(signal.SIGTERM, before)
    assert sys.unraisablehook is hook
    assert capfd.readouterr().err == ""


def test_other_exceptions_of_finalized_objects_are_shown_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[BaseException] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: shown.append(dropped.exc_value))
    exit_on_signals()
    try:
        Finalized(-1)
    finally:
        restore_signals()
    assert [type(error) for error in shown] in ([ValueError], [OSError])

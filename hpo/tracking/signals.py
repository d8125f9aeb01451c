"""SIGTERM and SIGHUP as exceptions, so that whoever is ended by them can still tidy up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDINGS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def exit_on_signals() -> None:
    """Makes SIGTERM (`kill`, a scheduler's time limit) and SIGHUP (a closed terminal) raise
    SystemExit in the main thread.

    Without a handler they end Python on the spot. Another library's handler, and `nohup`, stay.
    """
    if threading.current_thread() is threading.main_thread():
        for number in _ENDINGS:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _exit)


def restore_signals() -> None:
    """Undoes `exit_on_signals`, if it did anything; what is to be tidied up comes before."""
    for number in _ENDINGS:
        if signal.getsignal(number) is _exit:
            signal.signal(number, signal.SIG_DFL)


def _exit(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Lets the block finish before SIGINT, SIGTERM or SIGHUP takes effect; a second does at once.

    An interrupt in the middle of a database transaction leaves it open, and the file locked against
    what has still to be written.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    numbers = (signal.SIGINT, *_ENDINGS)
    handlers = {number: signal.getsignal(number) for number in numbers}
    before = {number: h for number, h in handlers.items() if h is not None}  # None: not Python's

    def hold(number: int, frame: FrameType | None) -> None:
        if held:
            restore()
            signal.raise_signal(number)
        held.append(number)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, hold)
    try:
        yield
    finally:
        restore()
        if held:
            signal.raise_signal(held[0])

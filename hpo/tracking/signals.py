"""SIGTERM and SIGHUP as exceptions, so that whoever is ended by them can still tidy up; and no
signal is lost."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_ENDINGS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_AGAIN = 0.1
"""Seconds after which a signal comes again whose exception Python dropped."""
_unraisable: Callable[[Any], Any] = sys.__unraisablehook__  # where ours is not at work


def exit_on_signals() -> None:
    """Makes SIGTERM (`kill`, a scheduler's time limit) and SIGHUP (a closed terminal) raise
    SystemExit in the main thread, and lets neither them nor SIGINT be lost.

    Without a handler they end Python on the spot. Another library's handler, and `nohup`, stay.
    An exception that a signal raises while an object is finalized is dropped by Python.
    """
    global _unraisable
    if threading.current_thread() is threading.main_thread():
        for number in _ENDINGS:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _exit)
        if hasattr(signal, "pthread_kill") and sys.unraisablehook is not _raise_again:
            _unraisable, sys.unraisablehook = sys.unraisablehook, _raise_again


def restore_signals() -> None:
    """Undoes `exit_on_signals`, if it did anything; what is to be tidied up comes before."""
    for number in _ENDINGS:
        if signal.getsignal(number) is _exit:
            signal.signal(number, signal.SIG_DFL)
    if sys.unraisablehook is _raise_again:
        sys.unraisablehook = _unraisable


def _raise_again(dropped: Any) -> None:
    """Sends a signal again whose exception was dropped; anything else goes to the hook before."""
    if isinstance(dropped.exc_value, KeyboardInterrupt):
        number: int = signal.SIGINT
    elif isinstance(dropped.exc_value, _Ended):
        number = dropped.exc_value.number
    else:
        _unraisable(dropped)
        return
    main = threading.main_thread().ident
    again = threading.Timer(_AGAIN, signal.pthread_kill, [main, number])
    again.daemon = True
    again.start()


class _Ended(SystemExit):
    """The end by a signal has the exit status that a shell gives it."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.number = number


def _exit(signum: int, frame: FrameType | None) -> None:
    raise _Ended(signum)


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

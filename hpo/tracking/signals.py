"""SIGTERM as an exception, so that whoever is ended by it can still tidy up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def exit_on_sigterm() -> None:
    """Makes SIGTERM (`kill`, a scheduler's time limit) raise SystemExit in the main thread.

    Without a handler it ends Python on the spot. Another library's handler stays as it is.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _exit)


def restore_sigterm() -> None:
    """Undoes `exit_on_sigterm`, if it did anything; what is to be tidied up comes before."""
    if signal.getsignal(signal.SIGTERM) is _exit:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Lets the block finish before SIGINT or SIGTERM takes effect; a second one does at once.

    An interrupt in the middle of a database transaction leaves it open, and the file locked against
    what has still to be written.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
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

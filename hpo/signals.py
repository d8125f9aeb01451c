"""SIGTERM as an exception, so that whoever is ended by it can still tidy up."""

from __future__ import annotations

import signal
import threading
from types import FrameType


def exit_on_sigterm() -> None:
    """Make SIGTERM (`kill`, a scheduler's time limit) raise SystemExit in the main thread.

    Without a handler it ends Python on the spot. Another library's handler stays as it is.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _exit)


def restore_sigterm() -> None:
    """Undo `exit_on_sigterm`, if it did anything; what is to be tidied up comes before."""
    if signal.getsignal(signal.SIGTERM) is _exit:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)

"""One quiet line that says how far a study is: rewritten where it stands, in a terminal or a
notebook, and in a log a new one now and then."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Literal, TextIO

Place = Literal["terminal", "notebook", "log"]
SECONDS: dict[Place, float] = {"terminal": 0.2, "notebook": 1.0, "log": 15.0}
"""Between two lines. In a notebook each is a message that the file may keep."""


class Progress:
    """Counts cells and prints the line. A context manager, which ends the line.

    Args:
        stream: where to; standard error by default, so that tables can be piped.
    """

    def __init__(self, stream: TextIO | None = None):
        self.workers = 0  # cells at a time; one handed out ahead does not count as running
        self._stream = stream if stream is not None else sys.stderr
        self._place = place_of(self._stream)
        self._begun = time.monotonic()
        self._printed = 0.0
        self._shown = 0  # characters of the line that stands there to be rewritten
        self._closed = False
        self.total = 0
        self.kept = 0
        self.running = 0
        self.done = 0
        self.failed = 0
        self.best: tuple[float, str] | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def update(self, *, force: bool = False) -> None:
        """Print the line if it is time to, or if forced."""
        now = time.monotonic()
        if not force and now - self._printed < SECONDS[self._place]:
            return
        self._printed = now
        line = self.line(now - self._begun, _columns(self._stream, self._place))
        if self._place == "log":
            self._write(line + "\n")
        else:
            self._write(self._wiped(line) + line)
            self._shown = len(line)

    def line(self, elapsed: float, columns: int | None = None) -> str:
        """The text after `elapsed` seconds.

        Where there is no room for all of it, first what is said elsewhere too is left out: a line
        that wraps cannot be rewritten.
        """
        finished = self.kept + self.done + self.failed
        parts = {"cells": f"cells {finished}/{self.total}"}
        if self.kept:
            parts["kept"] = f"{self.kept} kept from before"
        parts["running"] = f"{min(self.running, self.workers)} running"
        if self.failed:
            parts["failed"] = f"{self.failed} failed"
        if self.best is not None:
            # Of the meta-validation images: the test error of one seed selects nothing here.
            parts["best"] = f"lowest validation error {self.best[0]:.2f} % ({self.best[1]})"
        parts["gone"] = f"{clock(elapsed)} gone"
        here = self.done + self.failed
        if here and finished < self.total:
            parts["left"] = f"about {clock(elapsed / here * (self.total - finished))} left"
        if columns is None:
            return " · ".join(parts.values())
        for name in ("kept", "gone", "best", "running"):
            if len(" · ".join(parts.values())) > columns:
                parts.pop(name, None)
        return " · ".join(parts.values())[:columns]

    def say(self, message: str) -> None:
        """Print a message on a line of its own."""
        self._write(f"{self._wiped(message)}{message}\n")
        self._shown = 0

    def close(self) -> None:
        """Print the last state and end the line; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self.update(force=True)
        if self._place != "log":
            self._write("\n")

    def _wiped(self, text: str) -> str:
        """What goes before a text that takes the place of the line."""
        if self._place == "terminal":
            return "\r\x1b[2K"
        # A notebook goes back to the line's start, and wipes nothing: blanks do.
        over = " " * self._shown if self._shown > len(text) else ""
        return f"\r{over}\r" if self._place == "notebook" else ""

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def place_of(stream: TextIO) -> Place:
    """What shows the stream: a terminal that can rewrite a line, a notebook, or a log."""
    if type(stream).__module__.startswith("ipykernel."):
        return "notebook"
    return "terminal" if stream.isatty() and os.environ.get("TERM") != "dumb" else "log"


def _columns(stream: TextIO, place: Place) -> int | None:
    """Characters that fit on a line of a terminal, or None where that is unknown or no matter."""
    if place != "terminal":
        return None
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return None
    return columns - 1 if columns > 1 else None  # some pseudo-terminals say 0


def clock(seconds: float) -> str:
    """Seconds as people say them: 42s, 3m05s, 2h07m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"

"""One quiet line that says how far a study is: rewritten in a terminal, now and then in a log."""

from __future__ import annotations

import sys
import time
from typing import TextIO

LOG_SECONDS = 15.0
TERMINAL_SECONDS = 0.2


class Progress:
    """Counts cells and prints the line.

    Args:
        stream: where to; standard error by default, so that tables can be piped.
    """

    def __init__(self, stream: TextIO | None = None):
        self.workers = 0  # cells at a time; one handed out ahead does not count as running
        self._stream = stream if stream is not None else sys.stderr
        self._terminal = self._stream.isatty()
        self._begun = time.monotonic()
        self._printed = 0.0
        self.total = 0
        self.kept = 0
        self.running = 0
        self.done = 0
        self.failed = 0
        self.best: tuple[float, str] | None = None

    def update(self, *, force: bool = False) -> None:
        """Print the line if it is time to, or if forced."""
        now = time.monotonic()
        every = TERMINAL_SECONDS if self._terminal else LOG_SECONDS
        if not force and now - self._printed < every:
            return
        self._printed = now
        end = "" if self._terminal else "\n"
        start = "\r\x1b[2K" if self._terminal else ""
        self._stream.write(f"{start}{self.line(now - self._begun)}{end}")
        self._stream.flush()

    def line(self, elapsed: float) -> str:
        """The text after `elapsed` seconds."""
        finished = self.kept + self.done + self.failed
        parts = [f"cells {finished}/{self.total}"]
        if self.kept:
            parts.append(f"{self.kept} kept from before")
        parts.append(f"{min(self.running, self.workers)} running")
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.best is not None:
            # Of the meta-validation images: the test error of one seed selects nothing here.
            parts.append(f"lowest validation error {self.best[0]:.2f} % ({self.best[1]})")
        parts.append(f"{clock(elapsed)} gone")
        here = self.done + self.failed
        if here and finished < self.total:
            parts.append(f"about {clock(elapsed / here * (self.total - finished))} left")
        return " · ".join(parts)

    def say(self, message: str) -> None:
        """Print a message on a line of its own."""
        self._stream.write(("\r\x1b[2K" if self._terminal else "") + message + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Print the last state and end the line."""
        self.update(force=True)
        if self._terminal:
            self._stream.write("\n")


def clock(seconds: float) -> str:
    """Seconds as people say them: 42s, 3m05s, 2h07m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"

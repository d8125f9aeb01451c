"""One quiet line that says how far a study is: rewritten where it stands, in a terminal or a
notebook, and in a log a new one now and then."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Literal, TextIO

from tqdm import tqdm

from hpo.study.standard_streams import close, standard_error

Place = Literal["terminal", "notebook", "log"]
SECONDS: dict[Place, float] = {"terminal": 0.2, "notebook": 1.0, "log": 15.0}
"""Between two lines. In a notebook each is a message that the file may keep."""


class _Line(tqdm):
    """A bar of which nothing is shown but its description."""

    monitor_interval = 0  # no thread


class QuietLine:
    """A line that is rewritten where it stands, or in a log written anew now and then.

    Args:
        stream: where to; standard error by default, so that tables can be piped.
    """

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream if stream is not None else standard_error()
        self._place = place_of(self._stream)
        self._bar = _Line(
            file=self._stream, bar_format="{desc}", position=0, disable=self._place == "log"
        )
        self._shown = 0.0

    @property
    def columns(self) -> int | None:
        """Returns how many characters fit on the line, None if unknown or no matter."""
        if self._place != "terminal":
            return None
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            return None
        return columns - 1 if columns > 1 else None  # some pseudo-terminals say 0

    def due(self, *, force: bool = False) -> bool:
        """Says whether it is time for another line, or it is forced; the next is due later."""
        now = time.monotonic()
        if not force and now - self._shown < SECONDS[self._place]:
            return False
        self._shown = now
        return True

    def show(self, line: str) -> None:
        """Writes the line."""
        if self._place == "log":
            self.say(line)
        else:
            self._write(lambda: self._bar.set_description_str(line))

    def say(self, message: str) -> None:
        """Prints a message on a line of its own."""
        self._write(lambda: (tqdm.write(message, file=self._stream), self._stream.flush()))

    def close(self) -> None:
        """Ends the line."""
        self._write(self._bar.close)

    def _write(self, action: Callable[[], object]) -> None:
        """Writes to the stream, which takes everything from then on where nobody reads it."""
        try:
            action()
        except OSError:
            close(self._stream)


class Progress:
    """Counts cells and prints the line. A context manager, which ends the line.

    Args:
        stream: where to; standard error by default, so that tables can be piped.

    Attributes:
        workers: cells at a time; one handed out ahead does not count as running.
        total: cells of the study.
        kept: cells whose results are from before.
        running: cells that were handed out and have not ended.
        done: cells that ended.
        failed: cells that diverged, crashed or were left out.
        best: the lowest validation error, in percent, and its method.
    """

    def __init__(self, stream: TextIO | None = None):
        self.workers = self.total = self.kept = self.running = self.done = self.failed = 0
        self.best: tuple[float, str] | None = None
        self._line = QuietLine(stream)
        self._begun = time.monotonic()
        self._closed = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, *, force: bool = False) -> None:
        """Prints the line if it is time to, or if forced."""
        if self._line.due(force=force):
            self._line.show(self.line(time.monotonic() - self._begun, self._line.columns))

    def line(self, elapsed: float, columns: int | None = None) -> str:
        """Returns the text after `elapsed` seconds.

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
        for name in ("kept", "gone", "best", "running"):
            if columns is not None and len(" · ".join(parts.values())) > columns:
                parts.pop(name, None)
        return " · ".join(parts.values())[:columns]

    def say(self, message: str) -> None:
        """Prints a message on a line of its own."""
        self._line.say(message)

    def close(self) -> None:
        """Prints the last state and ends the line; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self.update(force=True)
            self._line.close()


def place_of(stream: TextIO) -> Place:
    """Returns what shows the stream: a terminal that can rewrite a line, a notebook, or a log."""
    if type(stream).__module__.startswith("ipykernel."):
        return "notebook"
    return "terminal" if stream.isatty() and os.environ.get("TERM") != "dumb" else "log"


def clock(seconds: float) -> str:
    """Returns seconds as people say them: 42s, 3m05s, 2h07m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"

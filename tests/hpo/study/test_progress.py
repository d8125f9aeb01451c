from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import sys
import termios
from contextlib import suppress
from typing import Any, TextIO

import pytest

from hpo.study import progress
from hpo.study.progress import Progress, clock, place_of
from hpo.study.standard_streams import say


def progress_of(workers: int, stream: TextIO | None = None) -> Progress:
    progress = Progress(stream)
    progress.workers = workers
    return progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 1000.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)


@pytest.fixture
def time_of_day(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize(
    ("counts", "elapsed", "text"),
    [
        ({"total": 40}, 0.4, "cells 0/40 · 0 running · 0s gone"),
        ({"total": 3, "done": 3}, 61, "cells 3/3 · 0 running · 1m01s gone"),
        # Cells kept from before say nothing about the time left.
        (
            {"total": 3, "kept": 2},
            5,
            "cells 2/3 · 2 kept from before · 0 running · 5s gone",
        ),
        # Of three that were handed out, one waits for a worker. 5 cells in 100 s, 25 to go: 500 s.
        (
            {"total": 40, "kept": 10, "done": 4, "failed": 1, "running": 3, "best": (4.256, "b")},
            100,
            "cells 15/40 · 10 kept from before · 2 running · 1 failed · lowest validation error "
            "4.26 % (b) · 1m40s gone · about 8m20s left",
        ),
    ],
)
def test_the_line_says_all_there_is_to_say(
    counts: dict[str, Any], elapsed: float, text: str
) -> None:
    progress = progress_of(2, io.StringIO())
    for name, value in counts.items():
        setattr(progress, name, value)
    assert progress.line(elapsed) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (185, "3m05s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (7620, "2h07m"),
        (100 * 3600, "100h00m"),
    ],
)
def test_seconds_as_people_say_them(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_log_gets_a_line_now_and_then(time_of_day: Clock) -> None:
    stream = io.StringIO()
    progress = progress_of(1, stream)
    progress.total = 3
    for second in range(61):
        time_of_day.now = 1000.0 + second
        progress.update()
    lines = stream.getvalue().splitlines()
    assert [line.split(" · ")[-1] for line in lines] == [f"{t}s gone" for t in (0, 15, 30, 45)] + [
        "1m00s gone"
    ]
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    progress.say("beta-1-digits-s0 diverged")
    progress.close()
    assert stream.getvalue().splitlines()[5] == "beta-1-digits-s0 diverged"
    assert len(stream.getvalue().splitlines()) == 7


def test_a_terminal_shows_one_line_that_changes(time_of_day: Clock) -> None:
    stream = Terminal()
    progress = progress_of(1, stream)
    progress.total = 3
    for tenth in range(11):
        time_of_day.now = 1000.0 + tenth / 10
        progress.update()
    progress.say("beta-1-digits-s0 diverged")
    progress.done = 3
    progress.close()
    rows = ["beta-1-digits-s0 diverged", "cells 3/3 · 0 running · 1s gone", ""]
    assert screen(stream.getvalue(), 1000) == rows
    assert 4 <= stream.getvalue().count("cells 0/3") <= 8  # not each time it is asked for


def test_standard_output_stays_free_for_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    progress = progress_of(1)
    progress.update(force=True)
    progress.close()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "cells 0/0" in captured.err


def full(stream: TextIO) -> Progress:
    progress = progress_of(2, stream)
    progress.total, progress.kept, progress.done, progress.failed = 40, 10, 4, 1
    progress.running, progress.best = 2, (4.256, "beta-1")
    return progress


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (200, "cells 15/40 · 10 kept from before · 2 running · 1 failed · lowest validation error "
         "4.26 % (beta-1) · 1m40s gone · about 8m20s left"),
        (110, "cells 15/40 · 2 running · 1 failed · lowest validation error 4.26 % (beta-1) · "
         "1m40s gone · about 8m20s left"),
        (95, "cells 15/40 · 2 running · 1 failed · lowest validation error 4.26 % (beta-1) · about "
         "8m20s left"),
        (79, "cells 15/40 · 2 running · 1 failed · about 8m20s left"),
        (45, "cells 15/40 · 1 failed · about 8m20s left"),
        (20, "cells 15/40 · 1 fail"),
    ],
)  # fmt: skip
def test_the_line_never_wraps(columns: int, text: str) -> None:
    assert full(io.StringIO()).line(100, columns) == text


def screen(written: str, columns: int) -> list[str]:
    """Returns what stands on a terminal that knows line feed and carriage return."""
    rows, at = [""], 0
    for token in written:
        if token == "\r":
            at = 0
        elif token == "\n":
            rows.append("")
            at = 0
        else:
            if at == columns:
                rows.append("")
                at = 0
            rows[-1] = rows[-1].ljust(at)[:at] + token + rows[-1][at + 1 :]
            at += 1
    return [row.rstrip() for row in rows]


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_in_a_real_terminal_one_row_stays(columns: int, time_of_day: Clock) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(theirs, "w", encoding="utf-8") as stream:
        with full(stream) as progress:
            for second in range(20):
                time_of_day.now = 1100.0 + second
                progress.update()
            progress.say("beta-1-digits-s0 diverged")
        os.set_blocking(ours, False)
        read = b""
        with suppress(BlockingIOError):
            while True:
                read += os.read(ours, 4096)
    os.close(ours)
    written = read.decode().replace("\r\n", "\n")
    rows = screen(written, columns)
    assert len(rows) == 3
    assert rows[0] == "beta-1-digits-s0 diverged"
    assert rows[1].startswith("cells 15/40")
    assert rows[2] == ""


class OutStream(io.StringIO):
    """As in ipykernel: no terminal, and its front end rewrites from a carriage return on."""


OutStream.__module__ = "ipykernel.iostream"


def test_in_a_notebook_one_line_stays(time_of_day: Clock) -> None:
    stream = OutStream()
    with full(stream) as progress:
        for second in range(4):
            time_of_day.now = 1100.0 + second / 2
            progress.update()
        progress.best = None  # the line gets shorter
        time_of_day.now += 1
        progress.update()
        progress.say("beta-1-digits-s0 diverged")
    written = stream.getvalue()
    assert "\x1b" not in written
    rows = screen(written, 1000)
    last = progress.line(time_of_day.now - 1000.0)
    assert rows == ["beta-1-digits-s0 diverged", last, ""]
    # Not five times a second: each is a message to the browser.
    assert written.count("lowest validation") == 2


def test_a_terminal_that_cannot_rewrite_is_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert place_of(Terminal()) == "log"
    monkeypatch.setenv("TERM", "xterm")
    assert place_of(Terminal()) == "terminal"
    assert place_of(io.StringIO()) == "log"


def test_what_ends_the_study_has_a_line_of_its_own() -> None:
    stream = Terminal()

    def study() -> None:
        with progress_of(1, stream) as progress:
            progress.update(force=True)
            raise KeyError

    with pytest.raises(KeyError):
        study()
    assert stream.getvalue().endswith("gone\n")


@pytest.mark.parametrize("place", ["terminal", "log"])
def test_a_reader_that_went_away_ends_nothing(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `2>&1 | head` does; what is said later is lost, and Python does not try again."""
    reading, writing = os.pipe()
    monkeypatch.setattr(progress, "place_of", lambda _: place)
    with open(writing, "w", buffering=1) as stream:
        line = progress.QuietLine(stream)
        line.show("first")
        os.close(reading)
        for _ in range(3):
            line.show("more")
            line.say("and more")
        line.close()


def test_a_process_without_standard_error_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    line = progress.QuietLine()
    line.say("nobody reads it")
    line.close()
    say("nor this")

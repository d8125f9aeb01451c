"""What is written to somebody who may have gone: a pipe that `head` has closed, no terminal."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO


class _Nowhere(io.StringIO):
    def write(self, text: str) -> int:
        return len(text)


def say(message: str) -> None:
    """Prints a line on standard error, if somebody reads that."""
    stream = standard_error()
    try:
        print(message, file=stream, flush=True)
    except OSError:
        close(stream)


def standard_error() -> TextIO:
    """Returns standard error, or what keeps nothing where a process has none."""
    return _Nowhere() if sys.stderr is None else sys.stderr


def close(stream: TextIO) -> None:
    """Lets the stream take everything, so that Python does not try again at its end."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)

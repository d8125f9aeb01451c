"""This module prints a report, and loses nothing where that fails."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path


def printed(study: str, lines: Sequence[str], files: Sequence[Path]) -> bool:
    """Prints what the files hold; returns whether standard output took it, or nobody reads it."""
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:  # whoever read it, such as `head`, has seen enough
        _close_output()
    except OSError as error:
        _close_output()
        names = ", ".join(shown(path) for path in files)
        print(f"{study}: error: the report could not be printed ({error}); it is in {names}",
              file=sys.stderr)  # fmt: skip
        return False
    return True


def _close_output() -> None:
    """Keeps Python from trying again at its end what standard output did not take."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def shown(path: Path) -> str:
    """Returns the path as short as it can be from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)

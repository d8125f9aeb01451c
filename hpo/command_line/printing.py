"""This module prints a report, and loses nothing where that fails."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hpo.study.standard_streams import close, say


def printed(study: str, lines: Sequence[str], files: Sequence[Path]) -> bool:
    """Prints what the files hold; returns whether standard output took it, or nobody reads it."""
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:  # whoever read it, such as `head`, has seen enough
        close(sys.stdout)
    except OSError as error:
        close(sys.stdout)
        names = ", ".join(shown(path) for path in files)
        say(f"{study}: error: the report could not be printed ({error}); it is in {names}")
        return False
    return True


def shown(path: Path) -> str:
    """Returns the path as short as it can be from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)

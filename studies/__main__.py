"""`metamixup NAME ...`, or `python -m studies NAME ...`, runs a study or another command.

The studies are the scripts of this folder; `studies/commands/` has what one does beside them. Only
the one that is named is imported.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).parent
UNUSABLE = 2
"""Exit status where there is no such command, or a part of the installation is missing."""


def commands() -> dict[str, Path]:
    """Returns the file of each command by its name, as users write it, in alphabetical order."""
    scripts = [path for path in HERE.glob("*.py") if _is_script(path)]
    others = [path for path in (HERE / "commands").glob("*.py") if path.stem != "__init__"]
    return {path.stem.replace("_", "-"): path for path in sorted([*scripts, *others])}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that is named first; returns its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    known = commands()
    if not given or given[0] in ("-h", "--help"):
        try:
            print(_help(known), flush=True)
        except BrokenPipeError:  # `head` has seen enough, and Python shall not try again at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if given[0] == "--version":
        from core import __version__

        print(f"metamixup-hpo {__version__}")
        return 0
    name = given[0].replace("_", "-")
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        return _refused(f"no command {given[0]!r}; {hint}`metamixup --help` lists them")
    place = known[name].relative_to(HERE).with_suffix("").parts
    try:
        command = importlib.import_module(".".join(("studies", *place)))
    except ImportError as error:
        return _refused(str(error))
    return int(command.main(given[1:]))


def _refused(reason: str) -> int:
    print(f"metamixup: error: {reason}", file=sys.stderr)
    return UNUSABLE


def _is_script(path: Path) -> bool:
    lines = path.read_text(encoding="utf-8").splitlines()
    return path != Path(__file__) and 'if __name__ == "__main__":' in lines


def _help(known: Mapping[str, Path]) -> str:
    width = max(map(len, known)) + 2
    lines = [f"  {name:{width}}{_first_line(path)}" for name, path in known.items()]
    return "\n".join(
        [
            "usage: metamixup COMMAND ...   (metamixup COMMAND --help says what it takes)",
            "       metamixup --version",
            "",
            *lines,
        ]
    )


def _first_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split())


if __name__ == "__main__":
    sys.exit(main())

"""The paper's tables and figures, one study after another, and one report of all that they left.

A study is given as a function from flags to an exit status, so that nothing here imports one.
"""

from __future__ import annotations

import json
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from hpo.report.page import anchor, page
from hpo.storage.atomic import write_atomically
from hpo.study.progress import clock

STATES = "reproduction.json"
REPORT = "reproduction"
INTERRUPTED = 130

Study = Callable[[Sequence[str]], int]
"""The `main` of a study."""


@dataclass(frozen=True)
class Part:
    """A table or a figure of the report.

    Attributes:
        key: unique among the parts; the study's name, and more where one study makes two parts.
        study: name of the study, and of the files that it leaves.
        title: for people.
        paper: what the paper says that ours is to be held against, in a sentence; its numbers
            stand in the tables.
        datasets: what the paper has it for, which the preset `paper` trains on.
        flags: what this part adds to the flags of all.
        folder: below the output folder, for a part that would write over another's files.
    """

    key: str
    study: str
    title: str
    paper: str
    datasets: tuple[str, ...]
    flags: tuple[str, ...] = ()
    folder: str = ""


@dataclass(frozen=True)
class State:
    """How a part's last run ended.

    Attributes:
        status: exit status of the study.
        seconds: that it took; less where cells were kept.
        preset: that it was run with.
        error: the last error that it told, or "".
    """

    status: int
    seconds: float
    preset: str
    error: str


def run_parts(
    parts: Sequence[Part],
    studies: Callable[[Part], Study],
    flags: Callable[[Part], Sequence[str]],
    output: Path,
    preset: str,
) -> dict[str, State]:
    """Run the parts one after another; one that fails is told, and the rest goes on.

    Args:
        parts: in this order.
        studies: the `main` of a part; may fail too.
        flags: of a part, all but --output.
        output: folder for everything; below it, how each part ended is kept, also over runs.
        preset: that the flags name.

    Returns:
        The states of the parts that were run; of an interrupted run the last one is `INTERRUPTED`.
    """
    ended: dict[str, State] = {}
    for number, part in enumerate(parts, 1):
        print(f"\n=== {number}/{len(parts)}: {part.title} ===", flush=True)
        begun = time.monotonic()
        place = ["--output", str(output / part.folder)]
        status, error = _outcome(part, partial(studies, part), [*flags(part), *place])
        state = State(status, time.monotonic() - begun, preset, error)
        ended[part.key] = state
        if status == INTERRUPTED:
            break
        write_states(output, {**read_states(output), part.key: state})
    return ended


def _outcome(part: Part, study: Callable[[], Study], arguments: Sequence[str]) -> tuple[int, str]:
    """Exit status and last error of a study; whatever it raises is an error of its own."""
    told = _Errors(sys.stderr)
    try:
        with redirect_stderr(told):
            status = study()(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED, "interrupted"
    except SystemExit as error:  # argparse's, and SIGTERM's
        status = error.code if isinstance(error.code, int) else 1
    except Exception as error:
        traceback.print_exc()
        return 1, f"{type(error).__name__}: {error}"
    if status not in (0, INTERRUPTED):
        print(f"{part.key} failed with status {status}; the rest goes on", file=sys.stderr)
    return status, "" if status == 0 else told.last


class _Errors:
    """Passes on what is written to a stream, and remembers the last line that tells an error."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.last = ""

    def write(self, text: str) -> int:
        """Write through."""
        for line in text.splitlines():
            _, found, message = line.partition("error: ")
            if found:
                self.last = message.strip()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def read_states(output: Path) -> dict[str, State]:
    """How parts ended in this folder, in this run or before; none where nothing was run.

    Raises:
        ValueError: the file is damaged.
    """
    path = output / STATES
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {key: State(**state) for key, state in known.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not readable ({error}); delete it: the studies' own files are kept"
        ) from error


def write_states(output: Path, states: dict[str, State]) -> None:
    """The inverse of `read_states`."""
    output.mkdir(parents=True, exist_ok=True)
    told = {key: asdict(state) for key, state in states.items()}
    write_atomically(output / STATES, json.dumps(told, indent=1))


def write_report(output: Path, parts: Sequence[Part]) -> list[Path]:
    """Write `reproduction.md` and `reproduction.html` from what the studies left below `output`.

    Reads Markdown and pictures, and computes nothing. The HTML has all pictures in itself; those of
    the Markdown are links into the folder.

    Args:
        output: the folder of `run_parts`.
        parts: all there are to report, in this order; one that left nothing is said to be missing.

    Returns:
        Both paths.
    """
    states = read_states(output)
    text = "\n\n".join(
        [
            "# The paper's tables and figures, reproduced",
            _count(parts, states),
            _overview(output, parts, states),
            *(_section(output, part, states.get(part.key)) for part in parts),
        ]
    )
    markdown, html = output / f"{REPORT}.md", output / f"{REPORT}.html"
    write_atomically(markdown, text + "\n")
    write_atomically(html, page("The paper's tables and figures, reproduced", text, output))
    return [markdown, html]


def _count(parts: Sequence[Part], states: dict[str, State]) -> str:
    """In a sentence how many parts are done, and which have failed."""
    there = [(part, states[part.key]) for part in parts if part.key in states]
    failed = [part.title for part, state in there if state.status != 0]
    text = f"{len(there) - len(failed)} of {len(parts)} parts are done"
    return f"{text}. **Failed: {'; '.join(failed)}.**" if failed else f"{text}."


def _overview(output: Path, parts: Sequence[Part], states: dict[str, State]) -> str:
    lines = ["| part | preset | state | time |", "| --- | --- | --- | --- |"]
    for part in parts:
        state = states.get(part.key)
        there = bool(_pictures(output, part) or _texts(output, part))
        preset, spent = (state.preset, clock(state.seconds)) if state else ("–", "–")
        link = f"[{part.title}](#{anchor(part.title)})"
        lines.append(f"| {link} | {preset} | {_told(state, there)} | {spent} |")
    return "\n".join(lines)


def _told(state: State | None, there: bool) -> str:
    if state is None:
        return "from an earlier run" if there else "not run"
    if state.status == 0:
        return "done" if there else "left no files"
    reason = f": {state.error}" if state.error else ""
    return f"**failed** (status {state.status}){reason}".replace("|", "/")


def _section(output: Path, part: Part, state: State | None) -> str:
    pieces = [f"## {part.title}", f"*The paper:* {part.paper}"]
    texts, pictures = _texts(output, part), _pictures(output, part)
    if state is None or state.status != 0:
        pieces.append(f"This part: {_told(state, bool(texts or pictures))}.")
    told: list[str] = []
    for path in texts:
        blocks = _blocks(path.read_text(encoding="utf-8"), part.folder)
        before = set(told)  # a figure's text stands in its table of errors too
        told += [block for block in blocks if block not in before]
    pieces += told
    shown = [f"![{path.stem}]({path.relative_to(output).as_posix()})" for path in pictures]
    pieces += [picture for picture in shown if picture not in told]
    return "\n\n".join(pieces)


def _texts(output: Path, part: Part) -> list[Path]:
    """What the study tells people: its own text, and of a figure the table of errors."""
    folder = output / part.folder
    names = (f"{part.study}.md", f"{part.study}-errors.md")
    return [folder / name for name in names if (folder / name).is_file()]


def _pictures(output: Path, part: Part) -> list[Path]:
    """The study's picture, then its others by name."""
    folder = output / part.folder
    first = folder / f"{part.study}.png"
    others = sorted(folder.glob(f"{part.study}-*.png"))
    return [*([first] if first.is_file() else []), *others]


def _blocks(text: str, folder: str) -> list[str]:
    """Markdown without its first heading, the others two levels down, in parts that blank lines
    divide; code blocks stay whole. Pictures beside it are addressed from above its folder."""
    blocks: list[list[str]] = [[]]
    code = False
    for number, line in enumerate(text.strip().splitlines()):
        code ^= line.startswith("```")
        if not line.strip() and not code:
            blocks.append([])
        elif code or not re.match(r"#+ ", line):
            blocks[-1].append(_rebased(line, folder))
        elif number:
            blocks[-1].append(f"##{line}")
    return ["\n".join(block) for block in blocks if block]


def _rebased(line: str, folder: str) -> str:
    return re.sub(r"(!\[[^\]]*\]\()([^)]+\))", rf"\1{folder}/\2", line) if folder else line

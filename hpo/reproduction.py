"""This module runs one study after another, and writes one report of all that they wrote.

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

from hpo.command_line.statuses import INTERRUPTED
from hpo.report.page import anchor, page
from hpo.storage.atomic import write_atomically
from hpo.storage.output_folder import reserved
from hpo.study.progress import clock

STATES = "reproduction.json"
REPORT = "reproduction"
TITLE = "The paper's tables and figures, reproduced"

Study = Callable[[Sequence[str]], int]
"""The `main` of a study."""


@dataclass(frozen=True)
class Part:
    """A table or a figure of the report.

    Attributes:
        study: name of the study, and of the files that it leaves.
        title: for people.
        paper: what the paper says that ours is to be held against, in a sentence; its numbers
            stand in the tables.
        datasets: what the paper has it for, which the preset `paper` trains on.
        variant: what sets it apart where one study makes several parts.
        flags: what this part adds to the flags of all.
        folder: below the output folder, for a part that would write over another's files.
    """

    study: str
    title: str
    paper: str
    datasets: tuple[str, ...]
    variant: str = ""
    flags: tuple[str, ...] = ()
    folder: str = ""

    @property
    def key(self) -> str:
        """Returns its name, unique among the parts."""
        return f"{self.study}-{self.variant}" if self.variant else self.study


@dataclass(frozen=True)
class State:
    """How a part's last run ended.

    Attributes:
        status: exit status of the study.
        seconds: that it took; less where cells were finished before.
        preset: that it was run with.
        error: the last error that it printed, or "".
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
    """Runs the parts one after another; one that fails is named, and the rest goes on.

    Args:
        parts: in this order.
        studies: gives the `main` of a part; may fail too.
        flags: gives the flags of a part, all but --output.
        output: folder for everything, also for how each part ended, in this run or before.
        preset: that the flags name.

    Returns:
        The states of the parts that were run; of an interrupted run the last one is `INTERRUPTED`.

    Raises:
        BlockingIOError: parts are being run in this folder already.
        OSError: the folder cannot be created, written to or locked.
    """
    ended: dict[str, State] = {}
    with reserved(output, "reproduce"):
        for number, part in enumerate(parts, 1):
            print(f"\n=== {number}/{len(parts)}: {part.title} ===", flush=True)
            begun = time.monotonic()
            place = ["--output", str(output / part.folder)]
            status, error = _outcome(part, partial(studies, part), [*flags(part), *place])
            ended[part.key] = State(status, time.monotonic() - begun, preset, error)
            if status == INTERRUPTED:
                break
            states = {**read_states(output), part.key: ended[part.key]}
            text = json.dumps({key: asdict(state) for key, state in states.items()}, indent=1)
            write_atomically(output / STATES, text)
    return ended


def _outcome(part: Part, study: Callable[[], Study], arguments: Sequence[str]) -> tuple[int, str]:
    """Returns exit status and last error of a study; whatever it raises is an error of its own."""
    errors = _Errors(sys.stderr)
    try:
        with redirect_stderr(errors):
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
    return status, "" if status == 0 else errors.last


class _Errors:
    """Passes on what is written to a stream, and remembers the last line that says an error."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.last = ""

    def write(self, text: str) -> int:
        """Writes through."""
        for message in re.findall(r"error: (.*)", text):
            self.last = message.strip()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def read_states(output: Path) -> dict[str, State]:
    """Returns how parts ended in this folder, in this run or before; none where nothing was run.

    Raises:
        ValueError: the file is damaged.
    """
    path = output / STATES
    try:
        states = json.loads(path.read_text(encoding="utf-8"))
        return {key: State(**state) for key, state in states.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not readable ({error}); delete it: the studies' own files stay"
        ) from error


def write_report(output: Path, parts: Sequence[Part]) -> list[Path]:
    """Writes `reproduction.md` and `reproduction.html` from what the studies left below `output`.

    Reads Markdown and pictures, and computes nothing. The HTML has all pictures in itself; those of
    the Markdown are links into the folder.

    Args:
        output: the folder of `run_parts`.
        parts: all there are to report, in this order; one that left nothing is said to be missing.

    Returns:
        Both paths.
    """
    states = read_states(output)
    known = [(part, states[part.key]) for part in parts if part.key in states]
    failed = [part.title for part, state in known if state.status != 0]
    count = f"{len(known) - len(failed)} of {len(parts)} parts are done."
    overview = ["| part | preset | state | time |", "| --- | --- | --- | --- |"]
    sections = []
    for part in parts:
        state = states.get(part.key)
        texts, pictures = _texts(output, part), _pictures(output, part)
        verdict = _verdict(state, bool(texts or pictures))
        preset, spent = (state.preset, clock(state.seconds)) if state else ("–", "–")
        link = f"[{part.title}](#{anchor(part.title)})"
        overview.append(f"| {link} | {preset} | {verdict} | {spent} |")
        sections += [f"## {part.title}", f"*The paper:* {part.paper}"]
        if state is None or state.status != 0:
            sections.append(f"This part: {verdict}.")
        sections += _blocks_of(texts, pictures, output, part.folder)
    count += f" **Failed: {'; '.join(failed)}.**" if failed else ""
    text = "\n\n".join([f"# {TITLE}", count, "\n".join(overview), *sections])
    markdown, html = output / f"{REPORT}.md", output / f"{REPORT}.html"
    write_atomically(markdown, text + "\n")
    write_atomically(html, page(TITLE, text, output))
    return [markdown, html]


def _verdict(state: State | None, there: bool) -> str:
    """Returns in a few words how a part ended, `there` being whether it left files."""
    if state is None:
        return "from an earlier run" if there else "not run"
    if state.status == 0:
        return "done" if there else "left no files"
    reason = f": {state.error}" if state.error else ""
    return f"**failed** (status {state.status}){reason}".replace("|", "/")


def _blocks_of(
    texts: Sequence[Path], pictures: Sequence[Path], output: Path, folder: str
) -> list[str]:
    """Returns the blocks of a part's texts, each shown once, and the pictures that none shows."""
    shown: list[str] = []
    for path in texts:
        before = set(shown)  # a figure's text stands in its table of errors too
        blocks = _blocks(path.read_text(encoding="utf-8"), folder)
        shown += [block for block in blocks if block not in before]
    links = [f"![{path.stem}]({path.relative_to(output).as_posix()})" for path in pictures]
    return shown + [link for link in links if link not in shown]


def _texts(output: Path, part: Part) -> list[Path]:
    """Returns what the study wrote for people: its own text, and of a figure that of its table."""
    names = (f"{part.study}.md", f"{part.study}-errors.md")
    return [path for name in names if (path := output / part.folder / name).is_file()]


def _pictures(output: Path, part: Part) -> list[Path]:
    """Returns the study's picture, then its others by name."""
    folder = output / part.folder
    first = folder / f"{part.study}.png"
    return [*([first] if first.is_file() else []), *sorted(folder.glob(f"{part.study}-*.png"))]


def _blocks(text: str, folder: str) -> list[str]:
    """Returns Markdown without its first heading, the others two levels down, in parts that blank
    lines divide; code blocks stay whole. Pictures beside it are addressed from above its folder."""
    blocks: list[list[str]] = [[]]
    code = False
    for number, line in enumerate(text.strip().splitlines()):
        code ^= line.startswith("```")
        if not line.strip() and not code:
            blocks.append([])
        elif not code and re.match(r"#+ ", line):
            blocks[-1] += [f"##{line}"] if number else []
        elif folder:
            blocks[-1].append(re.sub(r"(!\[[^\]]*\]\()([^)]+\))", rf"\1{folder}/\2", line))
        else:
            blocks[-1].append(line)
    return ["\n".join(block) for block in blocks if block]

"""Tables in pages that are made from evidence files, and from nothing else.

A page has a block for each:

    <!-- evidence: NAME view=errors rows=none,scores -->
    <!-- end -->

and `fill` puts the table between the two lines. NAME may be several, joined by +. Views: `table` (a
line a row of a study, the default), `errors` (a line a row, a column a data set), `setting` (of a
CSV of settings: what the positive control and the primary comparison say), `controls` (of a CSV of
controls: a line a comparison, a column a data set), `plain` (the CSV as it is), `text` (what a
study says, NAME.txt). `rows`, `datasets` and `columns` choose and order; `section=ID` chooses, by
the id of its heading, a section of a text; `origin=no` leaves the line about the origin out.

Below a table stands the command that made it. Where a block above, under the same heading, has it
already, the table has the link to its file alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from core.lazy import pandas as pd
from hpo.report.evidence import Rows, no_rows, read_origin, seeds_of
from hpo.report.evidence_trainings import read_table
from hpo.report.evidence_views import STALE, VIEWS, Evidence

_BLOCK = re.compile(
    r"^<!-- evidence: (?P<names>[\w+-]+)(?P<options>(?: \w+=[^\s>]+)*) -->\n"
    r"(?P<body>.*?)^<!-- end -->$",
    re.DOTALL | re.MULTILINE,
)
_OPENING = re.compile(r"^<!-- evidence:.*$", re.MULTILINE)
_HEADING = re.compile(r"^#+ ", re.MULTILINE)
_OPTIONS = ("view", "rows", "datasets", "columns", "section", "origin")


def fill(text: str, evidence: Path, link: str = "evidence", rows: Rows = no_rows) -> str:
    """Returns a page with the tables of its blocks made anew.

    Args:
        text: of the page.
        evidence: the folder of the evidence files.
        link: how the page calls that folder.
        rows: of today.

    Raises:
        ValueError: a block is not closed, or names what is not there.
    """
    blocks = list(_BLOCK.finditer(text))
    if len(blocks) != len(_OPENING.findall(text)):
        raise ValueError(
            "a block of evidence is not written as <!-- evidence: NAME view=... --> and, on a line "
            "of its own, <!-- end -->"
        )
    parts, end, said = [], 0, set[str]()
    for block in blocks:
        between = text[end : block.start()]
        if _HEADING.search(between):
            said = set()
        parts += [between, _filled(block, evidence, link, rows, said)]
        end = block.end()
    return "".join(parts) + text[end:]


def write_pages(
    pages: Sequence[Path],
    evidence: Path,
    *,
    check: bool = False,
    rows: Rows = no_rows,
) -> list[Path]:
    """Fills the blocks of these pages; returns those that were not up to date.

    Args:
        pages: Markdown files.
        evidence: the folder of the evidence files.
        check: change nothing.
        rows: of today.

    Raises:
        ValueError: a page has a block that cannot be filled.
    """
    changed = []
    for path in pages:
        before = path.read_text(encoding="utf-8")
        link = Path(os.path.relpath(evidence, path.parent)).as_posix()
        try:
            after = fill(before, evidence, link, rows)
        except ValueError as wrong:
            raise ValueError(f"{path}: {wrong}") from wrong
        if after != before:
            changed.append(path)
            if not check:
                path.write_text(after, encoding="utf-8")
    return changed


def _filled(block: re.Match[str], evidence: Path, link: str, rows: Rows, said: set[str]) -> str:
    """Returns a block with its table; adds the origins that it names to those `said`."""
    options = dict(part.split("=", 1) for part in block["options"].split())
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r}; there are {', '.join(_OPTIONS)}")
    view = options.get("view", "table")
    if view not in VIEWS:
        raise ValueError(f"unknown view {view!r}; there are {', '.join(VIEWS)}")
    kind = "txt" if view == "text" else "csv"
    tables = [_read(evidence / f"{name}.{kind}", rows) for name in block["names"].split("+")]
    parts = [VIEWS[view](tables, options)]
    if options.get("origin") != "no":
        parts += _origin_lines([table for table in tables if table.origin is not None], link, said)
    opening, end = block[0].partition("\n")[0], "<!-- end -->"
    return f"{opening}\n\n" + "\n\n".join(parts) + f"\n\n{end}"


def _read(path: Path, rows: Rows) -> Evidence:
    """Returns what a text or a table of evidence holds."""
    if not path.is_file():
        raise ValueError(f"there is no evidence {path.stem}: {path} is not there")
    origin = read_origin(path)
    stale = set() if origin is None else origin.stale(rows)
    if path.suffix == ".txt":
        return Evidence(path, pd.DataFrame(), origin, stale, path.read_text(encoding="utf-8"))
    frame = read_table(path)
    if "method" in frame and "dataset" in frame:
        column = "label" if "label" in frame else "method"
        old = [pair in stale for pair in zip(frame["method"], frame["dataset"], strict=True)]
        frame.loc[old, column] += STALE
    return Evidence(path, frame, origin, stale)


def _origin_lines(tables: Sequence[Evidence], link: str, said: set[str]) -> list[str]:
    lines: list[str] = []
    again: list[tuple[str, str]] = []
    for table in tables:
        origin, links = _origin(table), _links(table, link)
        if origin in said:
            again.append((origin, links))
        else:
            lines.append(f"{origin}; {links})")
            said.add(origin)
    if again:
        commands = "commands" if len({origin for origin, _ in again}) > 1 else "command"
        lines.append(f"By the {commands} above: {', '.join(links for _, links in again)}.")
    return lines


def _origin(table: Evidence) -> str:
    origin = table.origin
    assert origin is not None
    versions = ", ".join(f"{name} {of}" for name, of in origin.versions.items() if name == "torch")
    origins = ", ".join(filter(None, [f"commit {origin.commit}", origin.date, versions]))
    return f"`{origin.command}` ({origins}"


def _links(table: Evidence, link: str) -> str:
    files = {table.path.name: table.path, "each training": seeds_of(table.path)}
    return ", ".join(
        f"[{name}]({link}/{path.name})" for name, path in files.items() if path.is_file()
    )

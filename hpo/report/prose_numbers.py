"""Numbers in the running text of pages, held to the evidence that they tell of.

A page says in words what its tables show, so its words would tell of an older table once a table
is made anew. Each number with a decimal point must therefore stand in the evidence that its section
(from one ``##`` to the next) names: in a table of the section, in a CSV of the evidence that it
links to, or in a table of a page that it links to. Numbers that belong together, ``1.2 [0.8, 1.6]``
and ``1.2 ± 0.4``, must stand in one line of it. Whole numbers, which count things, are not looked
at; neither are settings (``α = 0.2``), versions (``torch 2.13``), code and headings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from core.lazy import pandas as pd
from hpo.report.evidence_trainings import read_table
from hpo.report.page import anchor, sections

_BLOCK = re.compile(
    r"^<!-- evidence: (?P<names>[\w+-]+).*?^<!-- end -->$", re.DOTALL | re.MULTILINE
)
_UNREAD = re.compile(r"^```.*?^```$|`[^`]*`|\]\([^)]*\)|<!--.*?-->", re.DOTALL | re.MULTILINE)
_LINE_UNREAD = re.compile(r"^(?:    |#).*$", re.MULTILINE)
_SETTING = re.compile(
    r"(?:(?:\b[^\W\dp]|\w\w) =|[<>]|\b(?:Python|torch)) [−-]?\d[\d.]*"
    r"(?:(?:,| and| or| to) \d[\d.]*)*"
)
_ONE = r"(?<![\w.:])[−+-]?\d+\.\d+(?!\.?\w)"
_TOGETHER = re.compile(rf"(?:{_ONE} )?\[{_ONE}, {_ONE}\]|{_ONE} ± {_ONE}|{_ONE}")
_NUMBER = re.compile(r"[−+-]?\d+\.(?P<digits>\d+)")
_CSV = re.compile(r"\]\((?:[^()\s]*/)?evidence/(?P<name>[\w-]+)\.csv\)")
_PAGE = re.compile(r"\]\((?P<path>[^():\s]*\.md)?(?:#(?P<anchor>[\w-]+))?\)")
_ROUNDED = 0.5000001
"""Half of a last digit, and what a decimal fraction is off in binary."""

_Line = tuple[float, ...]


def untold(page: Path, evidence: Path) -> list[str]:
    """Returns the numbers in a page's text that no evidence of their section has, as "SECTION:
    NUMBER, NUMBER" of each section that has such.

    A number agrees with a value that is rounded to as many digits, or with 100 times that where
    " %" follows; differences may be told the other way round.

    Args:
        page: a Markdown file; without a block of evidence nothing in it is looked at.
        evidence: the folder of the evidence files.
    """
    text = page.read_text(encoding="utf-8")
    found = []
    for title, section in sections(text) if _BLOCK.search(text) else ():
        lines = list(_lines([section if title else text, *_linked(page, section)], evidence))
        prose = _LINE_UNREAD.sub("", _UNREAD.sub("", _BLOCK.sub("", section)))
        prose = _SETTING.sub("", " ".join(prose.split()))
        without = []
        for match in _TOGETHER.finditer(prose):
            scales = (1, -1, 100, -100) if prose.startswith(" %", match.end()) else (1, -1)
            told = [_told(number) for number in _NUMBER.finditer(match[0])]
            if not any(_stands(told, line, scale) for line in lines for scale in scales):
                without.append(match[0])
        if without:
            found.append(f"{title or 'top'}: {', '.join(without)}")
    return found


def _told(number: re.Match[str]) -> tuple[float, float]:
    """Returns a number in words, and how far from it the value may be that is meant."""
    return float(number[0].replace("−", "-")), _ROUNDED * 10.0 ** -len(number["digits"])


def _stands(told: Iterable[tuple[float, float]], line: _Line, scale: int) -> bool:
    """Whether a line has all these numbers, each multiplied by the scale."""
    return all(any(abs(value * scale - near) <= off for value in line) for near, off in told)


def _lines(texts: Iterable[str], evidence: Path) -> Iterator[_Line]:
    """Returns the numbers of each line of the tables and CSVs that these sections name."""
    for text in texts:
        names = [link["name"] for link in _CSV.finditer(_BLOCK.sub("", text))]
        for block in _BLOCK.finditer(text):
            names += block["names"].split("+")
            for line in block[0].splitlines():
                yield tuple(_in_words(line))
        for name in names:
            if (path := evidence / f"{name}.csv").is_file():
                yield from _numbers(read_table(path))


def _numbers(frame: pd.DataFrame) -> Iterator[_Line]:
    """Returns the numbers of each line of a table, and the half widths of its intervals."""
    for low in [name for name in frame if name.endswith("_low")]:
        high = f"{low.removesuffix('_low')}_high"
        if high in frame:
            frame[f"{low} half"] = (frame[high] - frame[low]) / 2
    for line in frame.itertuples(index=False, name=None):
        words = " ".join(cell for cell in line if isinstance(cell, str))
        yield (*(cell for cell in line if isinstance(cell, (int, float))), *_in_words(words))


def _in_words(text: str) -> Iterator[float]:
    return (float(number[0].replace("−", "-")) for number in _NUMBER.finditer(text))


def _linked(page: Path, section: str) -> Iterator[str]:
    """Returns the sections, or the whole pages, that a section links to."""
    for link in _PAGE.finditer(section):
        path = page.parent / link["path"] if link["path"] else page
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            chosen = [part for title, part in sections(text) if anchor(title) == link["anchor"]]
            yield chosen[0] if chosen else text

"""Tables in pages that are made from evidence files, and from nothing else.

A page has a block for each:

    <!-- evidence: NAME view=errors rows=none,scores -->
    <!-- end -->

and `fill` puts the table between the two lines. NAME may be several, joined by +. Views: `table` (a
line a row of a study, the default), `errors` (a line a row, a column a data set), `controls` (of a
CSV of controls: a line a comparison, a column a data set), `plain` (the CSV as it is), `text` (what
a study says, NAME.txt). `rows`, `datasets` and `columns` choose and order; `section=ID` chooses, by
the id of its heading, a section of a text; `origin=no` leaves the line about the origin out.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core.lazy import pandas as pd
from hpo.report.evidence import Origin, Rows, no_rows, read_origin, seeds_of
from hpo.report.evidence_trainings import read_table, shown_dataset
from hpo.report.markdown import difference, error, number, padded_table, probability
from hpo.report.page import anchor, sections

_BLOCK = re.compile(
    r"^<!-- evidence: (?P<names>[\w+-]+)(?P<options>(?: \w+=[^\s>]+)*) -->\n"
    r"(?P<body>.*?)^<!-- end -->$",
    re.DOTALL | re.MULTILINE,
)
_OPENING = re.compile(r"^<!-- evidence:.*$", re.MULTILINE)
_OPTIONS = ("view", "rows", "datasets", "columns", "section", "origin")
_DATASETS = {
    "digits": "digits",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "svhn": "SVHN",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
}
STALE = " (of an earlier version)"
"""What is put behind the name of a row that today's code would train otherwise."""
ROUNDING = 1e-14
"""A smaller number is what rounding has left of 0."""

Line = Mapping[str, Any]


class _Table(NamedTuple):
    path: Path
    frame: pd.DataFrame
    origin: Origin | None
    stale: set[tuple[str, str]]
    text: str = ""


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
    return _BLOCK.sub(lambda block: _filled(block, evidence, link, rows), text)


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


def _filled(block: re.Match[str], evidence: Path, link: str, rows: Rows) -> str:
    options = dict(part.split("=", 1) for part in block["options"].split())
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r}; there are {', '.join(_OPTIONS)}")
    view = options.get("view", "table")
    if view not in _VIEWS:
        raise ValueError(f"unknown view {view!r}; there are {', '.join(_VIEWS)}")
    read = _read_text if view == "text" else _read
    tables = [read(name, evidence, rows) for name in block["names"].split("+")]
    parts = [_VIEWS[view](tables, options)]
    if options.get("origin") != "no":
        parts += [line for table in tables for line in _origin_lines(table, link)]
    opening, end = block[0].partition("\n")[0], "<!-- end -->"
    return f"{opening}\n\n" + "\n\n".join(parts) + f"\n\n{end}"


def _file(name: str, evidence: Path) -> Path:
    path = evidence / name
    if not path.is_file():
        raise ValueError(f"there is no evidence {path.stem}: {path} is not there")
    return path


def _read_text(name: str, evidence: Path, rows: Rows) -> _Table:
    path = _file(f"{name}.txt", evidence)
    origin = read_origin(path)
    text = path.read_text(encoding="utf-8")
    return _Table(path, pd.DataFrame(), origin, _stale(origin, rows), text)


def _read(name: str, evidence: Path, rows: Rows) -> _Table:
    path = _file(f"{name}.csv", evidence)
    frame, origin = read_table(path), read_origin(path)
    stale = _stale(origin, rows)
    if "method" in frame and "dataset" in frame:
        column = "label" if "label" in frame else "method"
        old = [pair in stale for pair in zip(frame["method"], frame["dataset"], strict=True)]
        frame.loc[old, column] += STALE
    return _Table(path, frame, origin, stale)


def _stale(origin: Origin | None, rows: Rows) -> set[tuple[str, str]]:
    return set() if origin is None else origin.stale(rows)


def _origin_lines(table: _Table, link: str) -> list[str]:
    if table.origin is None:
        return []
    origin = table.origin
    versions = ", ".join(f"{name} {of}" for name, of in origin.versions.items() if name == "torch")
    files = {table.path.name: table.path, "each training": seeds_of(table.path)}
    links = [f"[{name}]({link}/{path.name})" for name, path in files.items() if path.is_file()]
    origins = ", ".join(filter(None, [f"commit {origin.commit}", origin.date, versions]))
    return [f"`{origin.command}` ({origins}; {', '.join(links)})"]


def _chosen(frame: pd.DataFrame, options: Mapping[str, str]) -> pd.DataFrame:
    """Returns the lines that the options name, in the order that they name."""
    for option, column in (("datasets", "dataset"), ("rows", "method")):
        if option not in options:
            continue
        names = options[option].split(",")
        missing = sorted(set(names) - set(frame[column]))
        if missing:
            raise ValueError(f"{option}={missing[0]} is none of {', '.join(set(frame[column]))}")
        places = {name: place for place, name in enumerate(names)}
        frame = frame[frame[column].isin(names)]
        frame = frame.sort_values(column, key=lambda c: c.map(places), kind="stable")
    return frame


def _title(dataset: str, origin: Origin | None) -> str:
    name = shown_dataset(dataset).removeprefix("folder:")
    setting = origin.setting if origin is not None else ""
    return ", ".join(filter(None, [_DATASETS.get(name, name), setting]))


# ------------------------------------------------------------------------------------- the views


def _difference(line: Line) -> str:
    kind = "diff_vs_reference" if "diff_vs_reference" in line else "diff_vs_best_beta"
    return difference(line[kind], line["diff_ci_low"], line["diff_ci_high"])


def _label(line: Line) -> str:
    return str(line["label"]) + (" †" if line.get("best_beta") is True else "")


_COLUMNS: Mapping[str, tuple[str, Callable[[Line, Line], str]]] = {
    "method": ("method", lambda line, unit: _label(line)),
    "error": ("error (%)", lambda line, unit: error(line)),
    "n": ("n", lambda line, unit: str(line["n_seeds"])),
    "setting": ("setting", lambda line, unit: str(line["setting"])),
    "difference": ("− best Beta †", lambda line, unit: _difference(line)),
    "p": ("p", lambda line, unit: probability(line["p_value"])),
    "p_holm": ("p (Holm)", lambda line, unit: probability(line["p_holm"])),
    "cost": ("cost", lambda line, unit: _ratio(line, unit, "train_seconds")),
    "samples": ("samples", lambda line, unit: _ratio(line, unit, "samples_seen")),
    "paper": ("paper", lambda line, unit: number(line["paper_error"], "{:.2f}")),
}


def _ratio(line: Line, unit: Line, name: str) -> str:
    return number(line[name] / unit[name], "{:.2f}×")


def _study_table(tables: Sequence[_Table], options: Mapping[str, str]) -> str:
    names = options.get("columns", "method,error,n,difference,p_holm,samples").split(",")
    unknown = [name for name in names if name not in _COLUMNS]
    if unknown:
        raise ValueError(f"unknown column {unknown[0]!r}; there are {', '.join(_COLUMNS)}")
    parts = []
    for table in tables:
        frame = _chosen(table.frame, options)
        single = len(tables) == 1 and frame["dataset"].nunique() == 1
        for dataset, lines in frame.groupby("dataset", sort=False):
            every = table.frame[table.frame["dataset"] == dataset].to_dict("records")
            plain = [line for line in every if line["family"] == "none"]
            unit = plain[0] if plain else every[0]
            header = [_COLUMNS[name][0] for name in names]
            if "diff_vs_reference" in lines:
                header = [title.replace("best Beta †", "reference") for title in header]
            cells = [
                [_COLUMNS[name][1](line, unit) for name in names]
                for line in lines.to_dict("records")
            ]
            if not single:
                parts.append(f"**{_title(str(dataset), table.origin)}**")
            parts.append(padded_table(header, cells))
    return "\n\n".join(parts)


def _across(
    tables: Sequence[_Table],
    options: Mapping[str, str],
    head: str,
    label: Callable[[Line], str],
    cell: Callable[[Line], str],
) -> str:
    """Returns a table with a line for each label, and a column for each data set of each table."""
    columns: dict[str, dict[str, str]] = {}
    for table in tables:
        for line in _chosen(table.frame, options).to_dict("records"):
            title = _title(line["dataset"], table.origin)
            columns.setdefault(title, {})[label(line)] = cell(line)
    labels = dict.fromkeys(name for column in columns.values() for name in column)
    lines = [[name, *(column.get(name, "–") for column in columns.values())] for name in labels]
    return padded_table([head, *columns], lines)


def _errors(tables: Sequence[_Table], options: Mapping[str, str]) -> str:
    return _across(tables, options, "method", lambda line: str(line["label"]), error)


def _controls(tables: Sequence[_Table], options: Mapping[str, str]) -> str:
    def cell(line: Line) -> str:
        text = difference(line["difference"], line["ci_low"], line["ci_high"])
        return f"{text}, p {probability(line['p_holm'])}"

    def label(line: Line) -> str:
        return f"{line['method']} − {line['control_method']}"

    there = [t._replace(frame=t.frame.dropna(subset=["difference"])) for t in tables]
    return _across(there, options, "row − control", label, cell)


def _plain(tables: Sequence[_Table], options: Mapping[str, str]) -> str:
    parts = []
    for table in tables:
        frame = _chosen(table.frame, options)
        if "columns" in options:
            missing = sorted(set(options["columns"].split(",")) - set(frame))
            if missing:
                raise ValueError(f"unknown column {missing[0]!r}; there are {', '.join(frame)}")
            frame = frame[options["columns"].split(",")]
        cells = [[_value(value) for value in line] for line in frame.itertuples(index=False)]
        parts.append(padded_table([name.replace("_", " ") for name in frame], cells))
    return "\n\n".join(parts)


def _text(tables: Sequence[_Table], options: Mapping[str, str]) -> str:
    """Returns the texts, or a section of each, without titles and pictures, which the page has."""
    parts = []
    for table in tables:
        if "section" in options:
            part = _section(table, options["section"])
        else:
            part = table.text.replace("## ", "### ")
        parts.append(re.sub(r"^(?:# .*|!\[.*)\n+", "", part, flags=re.MULTILINE).strip())
        if table.stale:
            rows = ", ".join(sorted({method for method, _ in table.stale}))
            parts.append(f"({STALE.strip(' ()').capitalize()}: {rows}.)")
    return "\n\n".join(parts)


def _section(table: _Table, chosen: str) -> str:
    parts = {anchor(title): part for title, part in sections(table.text)}
    if chosen not in parts:
        there = ", ".join(parts)
        raise ValueError(f"{table.path.name} has no section {chosen!r}; there are {there}")
    return parts[chosen]


def _value(value: Any) -> str:
    if isinstance(value, float):
        value = 0.0 if abs(value) < ROUNDING else value
        return "–" if math.isnan(value) else f"{value:.4g}".replace("-", "−")
    return str(value)


_VIEWS = {
    "table": _study_table,
    "errors": _errors,
    "controls": _controls,
    "plain": _plain,
    "text": _text,
}

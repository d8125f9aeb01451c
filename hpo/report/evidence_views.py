"""How the tables of evidence look in a page: the views that hpo.report.evidence_blocks names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core.lazy import pandas as pd
from hpo.report.evidence import Origin
from hpo.report.evidence_trainings import shown_dataset
from hpo.report.markdown import difference, error, number, padded_table, probability
from hpo.report.page import anchor, sections

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
_ROUNDING = 1e-14
"""A smaller number is what rounding has left of 0."""

Line = Mapping[str, Any]


class Evidence(NamedTuple):
    """A file of evidence that was read."""

    path: Path
    frame: pd.DataFrame
    origin: Origin | None
    stale: set[tuple[str, str]]
    text: str = ""


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


def _study_table(tables: Sequence[Evidence], options: Mapping[str, str]) -> str:
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
    tables: Sequence[Evidence],
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


def _errors(tables: Sequence[Evidence], options: Mapping[str, str]) -> str:
    return _across(tables, options, "method", lambda line: str(line["label"]), error)


def _setting(tables: Sequence[Evidence], options: Mapping[str, str]) -> str:
    lines = [
        (
            _title(line["dataset"], table.origin),
            line["comparison"],
            f"{line['method']} − {line['other']}",
            str(line["n_seeds"]),
            difference(line["difference"], line["ci_low"], line["ci_high"]),
            probability(line["p_value"]),
            number(line["detectable"], "{:.2f}"),
        )
        for table in tables
        for line in _chosen(table.frame, options).to_dict("records")
    ]
    header = ("setting", "comparison", "rows", "n", "difference", "p", "detectable (80 % power)")
    first = 0 if len({line[0] for line in lines}) > 1 else 1
    return padded_table(header[first:], [line[first:] for line in lines])


def _controls(tables: Sequence[Evidence], options: Mapping[str, str]) -> str:
    def cell(line: Line) -> str:
        text = difference(line["difference"], line["ci_low"], line["ci_high"])
        return f"{text}, p {probability(line['p_holm'])}"

    def label(line: Line) -> str:
        return f"{line['method']} − {line['control_method']}"

    there = [t._replace(frame=t.frame.dropna(subset=["difference"])) for t in tables]
    return _across(there, options, "row − control", label, cell)


def _plain(tables: Sequence[Evidence], options: Mapping[str, str]) -> str:
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


def _text(tables: Sequence[Evidence], options: Mapping[str, str]) -> str:
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


def _section(table: Evidence, chosen: str) -> str:
    parts = {anchor(title): part for title, part in sections(table.text)}
    if chosen not in parts:
        there = ", ".join(parts)
        raise ValueError(f"{table.path.name} has no section {chosen!r}; there are {there}")
    return parts[chosen]


def _value(value: Any) -> str:
    if isinstance(value, float):
        value = 0.0 if abs(value) < _ROUNDING else value
        return "–" if math.isnan(value) else f"{value:.4g}".replace("-", "−")
    return str(value)


VIEWS: Mapping[str, Callable[[Sequence[Evidence], Mapping[str, str]], str]] = {
    "table": _study_table,
    "errors": _errors,
    "setting": _setting,
    "controls": _controls,
    "plain": _plain,
    "text": _text,
}

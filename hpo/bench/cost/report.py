"""Tables of the cost study from stored groups. Measures nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.lazy import pandas as pd
from hpo.bench.cost.contenders import VANILLA
from hpo.bench.cost.counting import floor
from hpo.bench.cost.presets import FIT
from hpo.bench.cost.records import Group, Measurement
from hpo.bench.cost.timing import ratio
from hpo.bench.cost.whole_fit import STEPS
from hpo.report.markdown import number, padded_table
from hpo.storage.atomic import write_atomically, write_csv

COLUMNS = (
    "part", "model", "width", "image_size", "channels", "batch_size", "meta_batch_size",
    "parameters", "variant", "contender", "kind", "rounds", "seconds", "steps_per_second",
    "time_ratio", "time_ratio_low", "time_ratio_high", "flops_ratio", "share_of_floor", "peak_mib",
    "relative_error", "cosine", "error", "remark",
)  # fmt: skip
"""The columns of the CSV, which has a row for each contender on each case."""

_NAN = float("nan")
_DASH = "–"
_FIT_HEADER = ("training", "time", "quartiles", "s an epoch", "images/s")
_HEADER = (
    "step", "time", "quartiles", "FLOPs", "of floor", "steps/s", "memory", "error", "cosine",
)  # fmt: skip


def build_table(groups: Iterable[Group]) -> pd.DataFrame:
    """Returns a row for each contender on each case; what is not known is NaN or None.

    time_ratio is the median time over plain MixUp's, time_ratio_low and _high are the quartiles of
    the ratios by round; share_of_floor is what the exact method needs by FLOPs over time_ratio, for
    engines and peers; peak_mib is above the resting state; error says why a row was not measured.
    """
    lines = [_line(group, row) for group in groups for row in group.measurements]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _line(group: Group, row: Measurement) -> dict[str, Any]:
    case = asdict(group.case)
    unit = group.measurements[0]
    line: dict[str, Any] = {name: case[name] for name in COLUMNS if name in case}
    line |= {
        "parameters": group.parameters,
        "variant": group.setting.variant,
        "contender": row.name,
        "kind": row.kind,
        "rounds": len(row.seconds),
        "flops_ratio": row.flops / unit.flops if row.flops and unit.flops else _NAN,
        "peak_mib": _NAN if row.peak_bytes is None else row.peak_bytes / 2**20,
        "relative_error": _NAN if row.relative_error is None else row.relative_error,
        "cosine": _NAN if row.cosine is None else row.cosine,
        "error": row.error,
        "remark": row.remark,
    }
    if row.seconds and unit.seconds:
        times = ratio(row.seconds, unit.seconds)
        seconds = float(pd.Series(row.seconds).median())
        line |= {
            "seconds": seconds,
            "steps_per_second": (STEPS if case["part"] == FIT else 1) / seconds,
            "time_ratio": times.ratio,
            "time_ratio_low": times.low,
            "time_ratio_high": times.high,
        }
        if row.kind in ("engine", "peer"):
            least = floor(group.case.batch_size, group.case.meta_batch_size)
            line["share_of_floor"] = least / times.ratio
    return line


def write_report(output: Path, frame: pd.DataFrame, preamble: str) -> list[Path]:
    """Writes `cost.csv` and `cost.md`, each whole or not at all, and returns their paths."""
    text = output / "cost.md"
    write_atomically(text, f"# cost\n\n{preamble}\n\n{to_markdown(frame)}\n")
    return [write_csv(output / "cost.csv", frame), text]


def to_markdown(frame: pd.DataFrame) -> str:
    """Returns a Markdown table a case of `build_table`'s frame, then the growth, then notes."""
    parts: list[str] = []
    main = frame[frame["part"] == "main"]
    for _, rows in main.groupby(["model", "batch_size", "width", "variant"], **_AS_THEY_COME):
        parts += [
            f"## {title(rows.iloc[0])}",
            padded_table(_HEADER, [_cells(row) for row in rows.to_dict("records")]),
            *_remarks(rows),
        ]
    for part, column, what in (("batch", "batch_size", "batch size"), ("depth", "model", "depth")):
        rows = frame[frame["part"] == part]
        by = ["variant"] if part == "depth" else ["model", "variant"]
        for _, curve in rows.groupby(by, **_AS_THEY_COME):
            named = "" if part == "depth" else f": {curve.iloc[0]['model']}"
            parts += [f"## Growth with {what}{named}", _curve_table(curve, column)]
            parts += _remarks(curve)
    fits = frame[frame["part"] == "fit"]
    for _, rows in fits.groupby(["model", "batch_size", "width"], **_AS_THEY_COME):
        lines = [_fit_cells(row) for row in rows.to_dict("records")]
        parts += [f"## A whole epoch: {title(rows.iloc[0])}", padded_table(_FIT_HEADER, lines)]
        parts += _remarks(rows)
    return "\n\n".join([*parts, _LEGEND, *([_FIT_LEGEND] if len(fits) else [])])


_AS_THEY_COME: dict[str, Any] = {"sort": False, "dropna": False}


def title(row: Any) -> str:
    """Returns what a case is called: "cnn 28×28×1, n = 128, m = 100, cuda-bf16"."""
    width = "" if row["width"] is None or math.isnan(row["width"]) else f" width {row['width']:g}"
    size = f"{row['image_size']}×{row['image_size']}×{row['channels']}"
    batches = f"n = {row['batch_size']}, m = {row['meta_batch_size']}"
    variant = f", {row['variant']}" if row["variant"] else ""
    return f"{row['model']}{width} {size}, {batches}{variant}"


def _first_cells(row: dict[Any, Any]) -> tuple[str, ...]:
    ratio = number(row["time_ratio"], "{:.2f}×")
    return str(row["contender"]), ratio, _quartiles(row)


def _cells(row: dict[Any, Any]) -> tuple[str, ...]:
    return (
        *_first_cells(row),
        number(row["flops_ratio"], "{:.2f}×"),
        number(row["share_of_floor"], "{:.0%}"),
        number(row["steps_per_second"], "{:.3g}"),
        number(row["peak_mib"], "{:.3g} MiB"),
        number(row["relative_error"], "{:.0e}"),
        number(row["cosine"], "{:.4f}"),
    )


def _fit_cells(row: dict[Any, Any]) -> tuple[str, ...]:
    return (
        *_first_cells(row),
        number(row["seconds"], "{:.3g}"),
        number(STEPS * row["batch_size"] / row["seconds"], "{:.0f}"),
    )


def _quartiles(row: dict[Any, Any]) -> str:
    high = number(row["time_ratio_high"], "–{:.2f}", missing="")
    return number(row["time_ratio_low"], "{:.2f}") + high


def _curve_table(rows: pd.DataFrame, column: str) -> str:
    points = list(dict.fromkeys(rows[column]))
    names = list(dict.fromkeys(rows["contender"]))
    cells = {(row["contender"], row[column]): row for row in rows.to_dict("records")}
    header = ("step", *(f"n = {p}" if column == "batch_size" else str(p) for p in points))
    return padded_table(header, [(n, *(_point(cells.get((n, p))) for p in points)) for n in names])


def _point(row: dict[Any, Any] | None) -> str:
    if row is None:
        return _DASH
    if row["error"] is not None and not pd.isna(row["error"]):
        return str(row["error"]) if row["error"] == "out of memory" else _DASH
    memory = number(row["peak_mib"], ", {:.3g} MiB", missing="")
    return number(row["time_ratio"], "{:.2f}×") + memory


def _remarks(rows: pd.DataFrame) -> list[str]:
    """Returns the unit, and why rows are missing."""
    notes = []
    for row in rows.to_dict("records"):
        if row["contender"] == VANILLA and row["part"] == "main":
            seconds = number(row["seconds"], "{:.3g} s")
            notes.append(f"- 1.00× is {seconds} a step; {row['parameters']:,} parameters.")
        for note in (row["error"], row["remark"]):
            if isinstance(note, str):
                where = "" if row["part"] == "main" else f" ({title(row)})"
                notes.append(f"- {row['contender']}{where}: {note.rstrip('.')}.")
    return ["\n".join(notes)] if notes else []


_FIT_LEGEND = (
    f"- a whole epoch: {STEPS} steps on the augmented images and the evaluation of as many "
    "validation images as a batch of them has. loop is a plain PyTorch loop of MixUp in thirty "
    "lines (`hpo/bench/cost/plain_loop.py`), the unit; fit is MixUp by `core.training.fit`, "
    "metamixup learns λ. What is not named is float32 and contiguous."
)
_LEGEND = (
    "- time: median of one whole training step over that of plain MixUp (vanilla), all taken "
    "in turns in one process; quartiles: of the ratios by round.\n"
    "- FLOPs: products of matrices and convolutions of one step over those of plain MixUp. "
    "of floor: what the exact method needs by FLOPs at the least, (10 + 3·m/n)/3, over the "
    "time ratio.\n"
    "- memory: peak of one step above the resting state.\n"
    "- error, cosine: of the hypergradient against the unroll in float64, on the trained "
    "network; error is relative, in L2."
)

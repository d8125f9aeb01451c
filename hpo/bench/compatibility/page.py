"""This module makes the page of what works with which engine, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from core.lazy import pandas as pd
from hpo.bench.compatibility import KINDS
from hpo.bench.compatibility.rows import ENGINES, RIGHT, SAMPLES, tried
from hpo.storage.atomic import write_atomically, write_csv

_INTRODUCTION = """# What works

{count} networks, layers, losses and optimizers were tried with four engines (large networks with
`auto` alone, none with `compiled`; torch {torch}, CPU), and the hypergradient held against central
differences of plain training: a copy of the model, `backward`, the optimizer's own `step`, the
validation loss. {right} entries are right, {refused} refused by a message,
{approximate} approximate (`finite_difference` of whole networks), {late} left out for time,
{wrong} wrong. `python studies/compatibility.py` makes this page and
[its table](evidence/compatibility.csv) anew.

What is not here, and a model of your own, is examined by
`print(core.examine(model, batch, val_batch, optimizer=optimizer))` in a dry step.

✓ right; ≈ approximate; – not tried; otherwise what torch lacks: **2nd** no second derivative,
**fwd** no forward derivative, **sparse** gradients; **no** for another reason, see below.
"""

_TITLES = {
    "network": "Networks of torchvision",
    "layer": "Layers and operations",
    "loss": "Losses",
    "optimizer": "Optimizers as the virtual step",
}

_NOTES = {
    "network": """Untrained, in training mode and float64, {samples} training and {samples}
validation images of 64 or 96 pixels; right: within {right:.0e}. Time and memory are those of a meta
stage with `auto` over those of a plain step (forward and backward), on a busy machine. GoogLeNet
returns several outputs and is given `logits_of="logits"`.""",
    "layer": """Each between two linear layers, in training mode and float64, under cross-entropy;
right: within {right:.0e}.""",
    "loss": "On a small network in float64; right: within {right:.0e}.",
    "optimizer": """`Reading(inner_step="optimizer")`: the virtual step is the optimizer's own, here
after three steps of training; right: within {right:.0e}. The real step takes any optimizer, and the
default virtual step, plain descent at its rates, needs nothing of it.""",
}


def write_page(kinds: Sequence[str], docs: Path) -> int:
    """Tries these kinds anew, takes the others from the table, and writes both table and page.

    Args:
        kinds: of `KINDS`.
        docs: folder of `compatibility.md` and `evidence/compatibility.csv`.

    Returns:
        1 where an entry is wrong, else 0.
    """
    table = docs / "evidence" / "compatibility.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    parts = {}
    if table.exists():
        stored = pd.read_csv(table, keep_default_na=False, na_values={"error": [""]})
        parts = dict(iter(stored.groupby("kind")))
    for kind in kinds:
        rows = []
        for row in tried(kind):
            print(f"{kind} {row.name}, {row.engine}: {row.result}", flush=True)
            rows.append({**asdict(row), "torch": torch.__version__.partition("+")[0]})
        parts[kind] = pd.DataFrame(rows)
        every = pd.concat([parts[k] for k in KINDS if k in parts], ignore_index=True)
        write_csv(table, every, "%.3g")
    every = pd.read_csv(table)
    write_atomically(docs / "compatibility.md", page(every))
    wrong = every[every["result"] == "wrong"]
    for _, row in wrong.iterrows():
        print(f"wrong: {row['kind']} {row['name']} under {row['engine']}, off by {row['error']}")
    print(f"{docs / 'compatibility.md'} and {table} are written.")
    return int(len(wrong) > 0)


def page(rows: pd.DataFrame) -> str:
    """Returns the page as Markdown.

    Args:
        rows: the fields of `Row` as columns, and `torch`, its version.
    """
    counts = rows["result"].value_counts()
    introduction = _INTRODUCTION.format(
        count=rows[["kind", "name"]].drop_duplicates().shape[0],
        torch=" and ".join(sorted(rows["torch"].astype(str).unique())),
        **{name: counts.get(name, 0) for name in ("right", "refused", "approximate", "wrong")},
        late=counts.get("not tried", 0),
    )
    parts = [introduction]
    for kind, title in _TITLES.items():
        some = rows[rows["kind"] == kind]
        if len(some):
            note = _NOTES[kind].format(right=RIGHT[kind], samples=SAMPLES)
            parts += [f"## {title}\n\n{note}\n\n{_table(some, network=kind == 'network')}"]
    return "\n".join(parts)


def _table(rows: pd.DataFrame, *, network: bool) -> str:
    more = ("time", "memory", "error", "found") if network else ()
    lines = [[rows["kind"].iloc[0], *(f"`{e}`" for e in ENGINES), *more]]
    lines.append(["---", *[":-:"] * len(ENGINES), *["--:"] * 3 * network, *["---"] * network])
    refusals: dict[str, list[str]] = {}
    for name, group in rows.groupby("name", sort=False):
        by_engine = group.set_index("engine")
        cells = [_cell(by_engine.loc[engine]) for engine in ENGINES]
        for text in by_engine["text"][[c == "no" for c in cells]].unique():
            refusals.setdefault(text, []).append(str(name))
        auto = by_engine.loc["auto"]
        if network:
            remark = "" if pd.isna(auto["text"]) else auto["text"]
            cells += [
                f"{auto['times']:.1f}×",
                f"{auto['memory']:.1f}×",
                f"{auto['error']:.0e}",
                remark,
            ]
        lines.append([str(name), *cells])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    reasons = [f"- {', '.join(names)}: {text}." for text, names in refusals.items()]
    return "\n".join([table, *(["", *reasons] if reasons else []), ""])


def _cell(row: pd.Series) -> str:
    shown = {"right": "✓", "approximate": "≈", "not tried": "–", "wrong": "✗", "not compared": "?"}
    if row["result"] != "refused":
        return shown[row["result"]]
    for pattern, word in (
        ("second derivative|once_differ|without its graph", "2nd"),
        ("forward", "fwd"),
        ("sparse", "sparse"),
    ):
        if re.search(f"no {pattern}|has {pattern}|marked {pattern}", row["text"]):
            return word
    return "no"

"""This module tries kinds of things, keeps the table, and writes the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from core.lazy import pandas as pd
from hpo.bench.compatibility.kinds import KINDS
from hpo.bench.compatibility.page import page
from hpo.bench.compatibility.rows import tried
from hpo.storage.atomic import write_atomically, write_csv


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

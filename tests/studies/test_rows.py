"""The rows of all studies: names, controls, and cells that earlier results are found by."""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path

import pytest

from hpo.command_line import parse
from hpo.run.data import prepare
from hpo.study.rows import StudyRow

CELLS = {
    "table1": (11, "0056755c"),
    "table2": (14, "0474d4e4"),
    "table3": (19, "d4d38b41"),
    "table4": (4, "90c7c1e1"),
    "table5": (5, "63d50894"),
    "remedies": (36, "01195dd9"),
    "scenarios": (12, "b0534a32"),
    "contrast": (11, "38870a4b"),
    "readings": (88, "c4a45b8d"),
    "alpha_search": (12, "ee70cd4e"),
    "equal_policies": (22, "a4abe663"),
    "learned_alpha": (10, "fe26ed1b"),
    "step_sizes": (14, "efc3561a"),
    "cheaper": (12, "f16a7149"),
    "proposition1": (5, "15beb5c2"),
    "label_errors": (14, "e6ffe6eb"),
    "figure2": (4, "d57f6c70"),
    "figure3": (13, "13ad048a"),
    "figure4": (3, "9626e49b"),
    "figure5": (11, "76a38f29"),
    "figure6": (3, "fa8d6341"),
    "figure7": (3, "6e617434"),
}
"""Number of rows, and what the ids of their cells begin with under SHA-256: a row that changes
trains anew what a results folder of an earlier version has."""


def rows_of(study: str) -> list[StudyRow]:
    module = import_module(f"studies.{study}")
    rows: list[StudyRow] = module.rows(7) if study == "label_errors" else module.rows()
    return rows


@pytest.mark.parametrize("study", CELLS)
def test_rows_have_names_controls_and_cells_as_before(study: str, tmp_path: Path) -> None:
    rows = rows_of(study)
    by_key = {row.row.key: row for row in rows}
    assert len(by_key) == len({row.row.label for row in rows}) == len(rows)
    for row in rows:
        source = by_key.get(row.row.control_of or "")
        assert (source is not None) == (row.row.family in ("placebo", "frozen"))
        if source is not None and row.row.family == "placebo":
            assert source.policy is not None
            assert row.policy == source.policy.placebo()
            assert row.settings("digits") == source.settings("digits")
        elif source is not None:
            assert row.frozen_from == source.row.key
        if row.row.counterpart is not None:
            assert row.row.counterpart in by_key
    flags = ["--preset", "smoke", "--seeds", "1", "--output", str(tmp_path)]
    semi = any(row.semi is not None for row in rows)
    options = parse(study, "", flags, budgeted=True, semi_supervised=semi)
    adapted = getattr(import_module(f"studies.{study}"), "adapted", None)
    plan, _ = prepare(study, rows, options, adapted)
    cells = [*plan.fixed_cells(), *(search.next() for search in plan.open_searches().values())]
    ids = "\n".join(sorted(cell.id for cell in cells))
    assert (len(rows), hashlib.sha256(ids.encode()).hexdigest()[:8]) == CELLS[study], ids

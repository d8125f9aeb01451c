"""The rows that a command line names."""

from __future__ import annotations

from collections.abc import Sequence

from hpo.study.named_rows import NUMBERED, numbered
from hpo.study.rows import StudyRow, check_sources
from hpo.study.variants import ENDINGS, varied


def chosen_rows(rows: Sequence[StudyRow], names: Sequence[str]) -> list[StudyRow]:
    """Returns the rows that a command line names, in the table's order, new ones last.

    A name is the key of a row, or of the row that several vary, which then are all meant. Where the
    study has a constant Beta, a fixed λ or MetaMixUp, there is one of any number, "beta-4",
    "metamixup-from-4". Behind a name come the endings of `hpo.study.variants`, "none+meta",
    "beta-4-stop-0.83", "metamixup-x3".

    Raises:
        ValueError: a name is no row; a row cannot be varied so; a frozen row comes without its
            source.
    """
    by_key = {row.row.key: row for row in rows}

    def find(name: str) -> list[StudyRow]:
        if name in by_key:
            return [by_key[name]]
        based = [row for row in rows if name and row.row.base == name]
        if based or name.rpartition("-")[0] not in _kinds(rows):
            return based
        return numbered(name)

    keys: set[str] = set()
    for name in names:
        named = varied(name, find)
        if not named:
            known = [*by_key, *(f"{kind}-NUMBER" for kind in _kinds(rows))]
            raise ValueError(f"unknown row {name!r}; choose among {', '.join(known)}; {ENDINGS}")
        for row in named:
            by_key.setdefault(row.row.key, row)
            keys.add(row.row.key)
    chosen = [row for key, row in by_key.items() if key in keys]
    check_sources(chosen)
    return chosen


def _kinds(rows: Sequence[StudyRow]) -> list[str]:
    """Returns the kinds of numbered rows that the study has one of, with nothing of its own."""
    plain = [
        row.row.key.partition("-")[0]
        for row in rows
        if row.differs_in_policy_alone and not row.row.architecture
    ]
    return [kind for kind in NUMBERED if kind.partition("-")[0] in plain]

"""Rows that several studies have, and how a study writes one of its own.

A row has the key that it has in Table II: with the same settings it is the same cells, and what one
study trained below an output folder, the next one takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpo.search.space_search import SEARCH_METHOD
from hpo.study.rows import SEARCHED_ALPHA, Family, Recipe, Row, StudyRow


def row(
    key: str,
    label: str,
    setting: str,
    family: Family,
    recipe: Recipe,
    paper: Mapping[str, float] | None = None,
    **training: Any,
) -> StudyRow:
    """Returns a row of a table, with settings of `TrainingConfig` that it has for itself."""
    return StudyRow(Row(key, label, setting, family, paper or {}), recipe, training)


SEARCHED = row(SEARCH_METHOD, "MixUp (α searched)", "alpha searched", "beta", SEARCHED_ALPHA)

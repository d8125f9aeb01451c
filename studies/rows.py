"""Rows that several studies have beside those of `hpo.study.named_rows`, and how one is changed.

A row has the key that it has in Table II: with the same settings it is the same cells, and what one
study trained below an output folder, the next one takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from core.policies import (
    AdaMixUpConfig,
    L2RWConfig,
    LearnedBetaConfig,
    MetaWeightNetConfig,
    ScoresConfig,
)
from hpo.search.spaces import Space
from hpo.study.named_rows import row
from hpo.study.recipes import Recipe, Searched
from hpo.study.rows import Family, Row, SemiRow, StudyRow
from studies.paper_numbers import FEW_LABELS


def few_labels(
    key: str,
    label: str,
    setting: str,
    family: Family,
    recipe: Recipe,
    *,
    method: str,
    counterpart: str | None = None,
    **settings: Any,
) -> StudyRow:
    """Returns a row that trains with few labels, with the paper's numbers of Tables III to V.

    Args:
        key, label, setting, family, counterpart: see `hpo.study.rows.Row`.
        recipe: how it mixes.
        method: of `hpo.study.few_label_presets.METHODS`.
        settings: fields of `SemiSupervisedConfig` that it has for itself.
    """
    semi = SemiRow(method, settings, FEW_LABELS.get(key, {}))
    return StudyRow(Row(key, label, setting, family, counterpart=counterpart), recipe, semi=semi)


def renamed(original: StudyRow, **shown: Any) -> StudyRow:
    """Returns the row with other fields of `hpo.study.rows.Row`."""
    return replace(original, row=replace(original.row, **shown))


def with_paper(
    rows: Iterable[StudyRow], errors: Mapping[str, Mapping[str, float]]
) -> list[StudyRow]:
    """Returns the rows with the paper's errors in percent, by key and data set."""
    return [renamed(each, paper_error=errors.get(each.row.key, {})) for each in rows]


def searched(original: StudyRow, space: Space) -> StudyRow:
    """Returns the row with its own knob found by a search, as α is; see `hpo.search.spaces`."""
    key, label = original.row.key, original.row.label
    shown = Row(f"{key}-searched", f"{label}, searched", f"{key} searched", original.row.family)
    assert original.policy is not None
    return replace(original, row=shown, recipe=Searched(original.policy, space))


ADAMIXUP_PLAIN = row(
    "adamixup-no-discriminator",
    "AdaMixUp without discriminator",
    "no discriminator",
    "extra",
    AdaMixUpConfig(discriminator=False),
)

LEARNED_BETA = row(
    "learned-beta", "α learned late", "alpha learned", "learned", LearnedBetaConfig()
)

SCORES = row("scores", "Scores", "a score a sample", "learned", ScoresConfig())

L2RW = row("l2rw", "Learning to Reweight", "weights a batch", "learned", L2RWConfig())

META_WEIGHT_NET = row(
    "meta-weight-net", "Meta-Weight-Net", "weights by loss", "learned", MetaWeightNetConfig()
)

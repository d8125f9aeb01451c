"""Which comparisons of a table are one family, and which stand each alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hpo.report.contrasts import Values, family, paired
from hpo.report.positive_control import positive_pair
from hpo.study.comparisons import BEST_BETA, Comparisons
from hpo.study.rows import CONTROLS, Row

Couple = frozenset[str]
"""Keys of two rows that are compared, in either direction."""


def adjusted_p(
    lines: Sequence[Mapping[str, Any]],
    rows: Sequence[Row],
    errors: Mapping[str, Values],
    reference: str | None,
    declared: Comparisons,
) -> dict[Couple, float]:
    """Returns the p of each comparison of one table, by the rows that it compares.

    Each row is compared with the reference, and with its counterpart where it has one. Holm's
    method adjusts all of these together, but for those that stand alone; see `Comparisons`.

    Args:
        lines: of one data set and architecture.
        rows: of the study.
        errors: by key of the row, those of its seeds.
        reference: key of the row that all are compared with; None, or a row that is not among
            them: nothing is.
        declared: by the study.
    """
    here: set[str] = {line["method"] for line in lines}
    if reference not in here:
        reference = None
    pairs = [(key, reference) for key in here if reference is not None and key != reference]
    pairs += [
        (row.key, row.counterpart)
        for row in rows
        if row.counterpart and {row.key, row.counterpart} <= here
    ]
    p_values = {Couple(pair): paired(*(errors[key] for key in pair)).p_value for pair in pairs}
    alone = {*_standing_alone(lines, rows, reference, declared)}
    return p_values | family({pair: p for pair, p in p_values.items() if pair not in alone})


def _standing_alone(
    lines: Sequence[Mapping[str, Any]],
    rows: Sequence[Row],
    reference: str | None,
    declared: Comparisons,
) -> Iterator[Couple]:
    """Yields comparisons that are a family each: the positive control, the primary comparisons, and
    with the reference those of rows that nobody claims to be better: controls, and rows that are
    there because others need them."""
    for pair in (positive_pair(lines, declared), *declared.primary):
        if pair is not None:
            yield Couple(reference or key if key == BEST_BETA else key for key in pair)
    needed = {key for row in rows for key in row.needs}
    for line in lines:
        if reference is not None and (line["family"] in CONTROLS or line["method"] in needed):
            yield Couple((line["method"], reference))

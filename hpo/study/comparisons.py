"""What a study declares, before it trains, about the comparisons that it makes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.training.config import TrainingConfig

Pair = tuple[str, str]
"""Keys of two rows; the first is compared with the second."""

BEST_BETA = ""
"""In place of a row's key: the best constant Beta, no mixing among them."""


@dataclass(frozen=True)
class Comparisons:
    """A study declares which of its comparisons it was made for, and which shows that it can tell
    rows apart at all.

    Each of these is a family of its own: its p is not adjusted. The same is so for a learned row
    against its placebo and its frozen row, and for rows that others need. All other comparisons of
    a table, with the best Beta or the reference and with counterparts, are one family.

    Attributes:
        primary: one for each question that the study was made for: keys of a row and of the one it
            is compared with, or `BEST_BETA`.
        positive: keys of a row that is known to have fewer errors than another, and of that one;
            None: the best Beta with α above 0, and no mixing, unless there is a reference.
        reference: key of the row that all are compared with; None: the best Beta.
        positive_where: what is positive instead where a setting is not its default, by the name of
            a field of `TrainingConfig`; the first whose two rows are there.
    """

    primary: tuple[Pair, ...] = ()
    positive: Pair | None = None
    reference: str | None = None
    positive_where: Mapping[str, Pair] = field(default_factory=dict)

    def of(self, training: TrainingConfig, keys: Collection[str]) -> Comparisons:
        """Returns what is declared of a study with these rows that share these settings."""
        for setting in fields(training):
            pair = self.positive_where.get(setting.name)
            if pair is None or getattr(training, setting.name) == setting.default:
                continue
            if {*pair} <= {*keys}:
                return replace(self, positive=pair)
        return self


NOTHING_DECLARED = Comparisons()

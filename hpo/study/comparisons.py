"""What a study declares, before it trains, about the comparisons that it makes."""

from __future__ import annotations

from dataclasses import dataclass

BEST_BETA = ""
"""In place of a row's key: the best constant Beta, no mixing among them."""


@dataclass(frozen=True)
class Comparisons:
    """A study declares which of its comparisons is the one it was made for, and which shows that it
    can tell rows apart at all.

    Each of the two is a family of its own: its p is not adjusted. The same is so for a learned row
    against its placebo and its frozen row. All other comparisons of a data set are one family.

    Attributes:
        primary: keys of a row and of the one it is compared with, or `BEST_BETA`.
        positive: keys of a row that is known to have fewer errors than another, and of that one;
            None: the best Beta with α above 0, and no mixing, unless there is a reference.
        reference: key of the row that all are compared with; None: the best Beta.
    """

    primary: tuple[str, str] | None = None
    positive: tuple[str, str] | None = None
    reference: str | None = None


NOTHING_DECLARED = Comparisons()

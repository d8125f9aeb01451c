"""What an analysis found, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Findings:
    """What an analysis found. What was not asked for is empty.

    Attributes:
        pair_epochs, pair_lam: epochs, and of each the mean λ by classes, [C, C]; see
            `mean_by_class_pair`.
        plane, plane_labels: of test images the two features, [n, 2] to five digits, and labels [n].
        intrusion: the fields of `core.analysis.intrusion.Intrusion`.

    Examples:
        >>> from core.analysis import Findings
        >>> Findings().plane
        []
    """

    pair_epochs: list[int] = field(default_factory=list)
    pair_lam: list[list[list[float | None]]] = field(default_factory=list)
    plane: list[list[float]] = field(default_factory=list)
    plane_labels: list[int] = field(default_factory=list)
    intrusion: dict[str, float] = field(default_factory=dict)

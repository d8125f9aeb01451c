"""This module says what confidence a pseudo-label needs, and how that falls (APL)."""

from __future__ import annotations

from core.semi_supervised.config import ThresholdFormula


def threshold_at(
    epoch: int,
    *,
    start: float,
    step: float,
    period: int,
    formula: ThresholdFormula = "per-period",
) -> float:
    """Returns the threshold σ of an epoch (Algorithm 2, lines 3 to 6; section III-C).

    The paper gives it twice, differently. Algorithm 2 lowers it by σd once in every period of K
    epochs: "per-period". The text says σ_t = σ_{t−1} − σd·[t/K]·K: with σd = 0.05 and K = 30 it
    takes 1.5 off 0.95 at once, at t = 30 where [·] cuts off (at t = 15 where it rounds to the
    nearest), and again in every epoch after. From there on every pseudo-label is accepted, whatever
    σd, which contradicts Algorithm 2, the text around it ("to avoid the frequent update") and the
    sweep of σd in Table V. "literal" cuts off, and is there to be compared.

    Args:
        epoch: t, from 0.
        start: σ0.
        step: σd.
        period: K, at least 1.
        formula: see above.

    Returns:
        σ. Below 0 (σd = 0.2 for 200 epochs: 0.95 − 6·0.2) it accepts everything, as 0 does, and is
        given as 0.

    Examples:
        >>> from core.semi_supervised import threshold_at
        >>> [round(threshold_at(t, start=0.95, step=0.05, period=30), 2) for t in (0, 29, 30, 60)]
        [0.95, 0.95, 0.9, 0.85]
    """
    if formula == "per-period":
        falls = epoch // period
        return max(0.0, start - step * falls)
    return max(0.0, start - step * period * sum(t // period for t in range(1, epoch + 1)))

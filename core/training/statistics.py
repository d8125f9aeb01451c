"""What λ did in one epoch: quantiles, change by learning, histogram, quantile function."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from core.mixing.interpolation import Interpolation

BINS = 20
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LEVELS = 101
"""Of the quantile function: 0, 0.01, …, 1."""
PARTS, PART_LEVELS = 12, 51
"""Of the schedule of λ: parts of the training, and levels of each one's quantile function."""


class LambdaStatistics:
    """Collects the interpolations of an epoch; of a method that mixes nothing there are none."""

    def __init__(self) -> None:
        self._lam: list[Tensor] = []
        self._change: list[Tensor] = []
        self._square: list[Tensor] = []

    def add(self, interpolation: Interpolation) -> None:
        """Takes in one step."""
        self._lam.append(interpolation.lam.detach())
        if interpolation.change is not None and interpolation.hypergradient is not None:
            self._change.append(interpolation.change.abs())
            self._square.append(interpolation.hypergradient.square())

    def metrics(self) -> dict[str, float]:
        """Returns lam_mean and quantiles lam_q05 to lam_q95; of a learned policy also lam_change,
        the mean size of λ's change by learning, and hypergradient_rms. Nothing of nothing."""
        if not self._lam:
            return {}
        lam = torch.cat(self._lam).float().cpu().sort().values
        out = {"lam_mean": float(lam.mean())}
        for q in QUANTILES:
            out[f"lam_q{round(100 * q):02d}"] = float(lam[round(q * (len(lam) - 1))])
        if self._change:
            out["lam_change"] = float(torch.cat(self._change).mean())
            out["hypergradient_rms"] = float(torch.cat(self._square).mean().sqrt())
        return out

    def histogram(self) -> list[int]:
        """Counts of λ in 20 equal bins over [0, 1]."""
        if not self._lam:
            return [0] * BINS
        lam = torch.cat(self._lam).float().cpu()
        return [int(n) for n in torch.histc(lam, bins=BINS, min=0.0, max=1.0)]

    def quantile_function(self, levels: int = LEVELS) -> list[float]:
        """Returns λ at equally spaced levels from 0 to 1, to six digits; linear between the
        samples.

        Empty of nothing.
        """
        if not self._lam:
            return []
        lam = torch.cat(self._lam).double().cpu().numpy()
        return [round(float(q), 6) for q in np.quantile(lam, np.linspace(0.0, 1.0, levels))]


class LambdaSchedule:
    """Collects how λ was distributed in each of twelve equal parts of a training.

    Epoch e of E, from 0, belongs to part 12 e // E; of fewer than twelve epochs each is a part. The
    distribution of a part has as its quantile function the mean of those of its epochs.

    Args:
        epochs: E.

    Attributes:
        parts: λ at 51 equally spaced levels from 0 to 1, of each part that has begun.
    """

    def __init__(self, epochs: int):
        self._epochs, self._parts = epochs, min(epochs, PARTS)
        self.parts: list[list[float]] = []

    def add(self, epoch: int, lam: LambdaStatistics) -> None:
        """Takes in the epoch of this number, from 0."""
        quantiles = lam.quantile_function(PART_LEVELS)
        part = epoch * self._parts // self._epochs
        seen = epoch - -(-part * self._epochs // self._parts)
        if not quantiles or len(self.parts) != part + (seen > 0):
            return  # nothing is mixed, or it goes on from a checkpoint of before there were parts
        if seen:
            pairs = zip(self.parts[part], quantiles, strict=True)
            quantiles = [old + (new - old) / (seen + 1) for old, new in pairs]
        self.parts = [*self.parts[:part], quantiles]

    def complete(self) -> list[list[float]]:
        """Returns the parts to four digits; none where one of them is missing."""
        if len(self.parts) < self._parts:
            return []
        return [[round(value, 4) for value in part] for part in self.parts]

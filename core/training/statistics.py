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

    @property
    def steps(self) -> int:
        """Returns how many were taken in."""
        return len(self._lam)

    def quantile_function(self, levels: int = LEVELS, steps: slice = slice(None)) -> list[float]:
        """Returns λ at equally spaced levels from 0 to 1, to six digits; linear between the
        samples, those of these steps.

        Empty of nothing.
        """
        if not self._lam[steps]:
            return []
        lam = torch.cat(self._lam[steps]).double().cpu().numpy()
        return [round(float(q), 6) for q in np.quantile(lam, np.linspace(0.0, 1.0, levels))]


class LambdaSchedule:
    """Collects how λ was distributed in each of twelve equal parts of a training.

    Step s of S, from 0, belongs to part 12 s // S, as `FrozenSchedule` has it; of fewer than twelve
    epochs each is a part. The distribution of a part has as its quantile function the mean of those
    of its epochs, each by the steps that it has there. Where nothing is mixed any more, the
    distribution stays what it was: the epochs after `stop_mixing` have no λ.

    Args:
        epochs: of the training.

    Attributes:
        parts: λ at 51 equally spaced levels from 0 to 1, of each part that has begun.
    """

    def __init__(self, epochs: int):
        self._epochs, self._parts = epochs, min(epochs, PARTS)
        self.parts: list[list[float]] = []

    def add(self, epoch: int, lam: LambdaStatistics, mixed: bool = True) -> None:
        """Takes in the epoch of this number, from 0, and whether it mixed."""
        begun, ended = epoch * lam.steps, (epoch + 1) * lam.steps
        for part in range(self._parts):
            start, end = (-(-p * self._epochs * lam.steps // self._parts) for p in (part, part + 1))
            seen, steps = max(0, begun - start), range(max(start, begun), min(end, ended))
            if not steps or len(self.parts) != part + (seen > 0):
                continue  # it may go on from a checkpoint of before there were parts
            if mixed:
                here = slice(steps.start - begun, steps.stop - begun)
                quantiles = lam.quantile_function(PART_LEVELS, here)
                share = len(steps) / (seen + len(steps))
                old = self.parts[part] if seen else quantiles
                pairs = zip(old, quantiles, strict=True)
                self.parts = [*self.parts[:part], [o + (q - o) * share for o, q in pairs]]
            elif not seen:
                self.parts = [*self.parts, *self.parts[-1:]]

    def complete(self) -> list[list[float]]:
        """Returns the parts to four digits; none where one of them is missing."""
        if len(self.parts) < self._parts:
            return []
        return [[round(value, 4) for value in part] for part in self.parts]

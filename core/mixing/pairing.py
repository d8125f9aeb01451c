"""This module says who may pair with whom, and whether a sample outweighs its partner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.lazy import torch
from core.mixing.batch import draw_partners

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pairing:
    """A pairing says how a policy pairs the samples of a batch.

    Attributes:
        groups: sizes of consecutive parts of the batch that pair among themselves, such as the
            labelled and the unlabelled samples (Algorithm 2, lines 8 and 12). None: one part.
        dominant: the sample outweighs its partner: a drawn λ becomes max(λ, 1 − λ) (MixMatch,
            Berthelot et al. 2019, Eq. 9), a learned one moves within [1/2, 1].

    Examples:
        >>> import core
        >>> core.Pairing(dominant=True).dominant
        True
    """

    groups: tuple[int, ...] | None = None
    dominant: bool = False

    def partners(
        self, n: int, *, generator: torch.Generator | None, device: torch.device | str
    ) -> Tensor:
        """Draws a random permutation of each part: [n], int64, on `device`.

        Raises:
            ValueError: the parts do not make up the batch.
        """
        if self.groups is None:
            return draw_partners(n, generator=generator, device=device)
        if min(self.groups, default=-1) < 0 or sum(self.groups) != n:
            raise ValueError(f"groups {self.groups} must be sizes that sum to the batch's {n}")
        parts, start = [], 0
        for size in self.groups:
            parts.append(start + draw_partners(size, generator=generator))
            start += size
        return torch.cat(parts).to(device)

    def fold(self, lam: Tensor) -> Tensor:
        """Returns λ as drawn, or max(λ, 1 − λ) where the sample is to outweigh its partner."""
        return torch.maximum(lam, 1 - lam) if self.dominant else lam

    @property
    def span(self) -> float:
        """This is how long the interval of λ is: 1, or 1/2 where the sample outweighs."""
        return 0.5 if self.dominant else 1.0

    def share(self, lam: Tensor) -> Tensor:
        """Returns where λ lies in its interval, in [0, 1]: 2λ − 1 where the sample outweighs.

        Learning moves this. Moved λ that was reflected at 1/2 would turn round: most of what is
        wanted downward would end above its start.
        """
        return 2 * lam - 1 if self.dominant else lam

    def lam(self, share: Tensor) -> Tensor:
        """Returns the λ of a `share`."""
        return (1 + share) / 2 if self.dominant else share


ANY = Pairing()
"""Anybody with anybody: the default."""

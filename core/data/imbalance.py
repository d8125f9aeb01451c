"""This module makes a long tail, and draws from one so that every class comes up as often."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from core.data.on_cpu import on_cpu
from core.data.splits import by_class
from core.random_streams import LONG_TAIL, derived_generator

__all__ = ["balanced_draws", "long_tail"]

_ROUNDING = 1e-9
"""Against powers that miss a whole number by their last bit: 512^(1/9) must count as 2."""


@on_cpu
def long_tail(labels: np.ndarray | Tensor, num_classes: int, *, ratio: float, seed: int) -> Tensor:
    """Chooses images whose classes have exponentially decaying sizes (Cui et al. 2019).

    Of C classes, class c keeps n_max · ratio^(−c / (C − 1)) images, rounded down as in the
    published long-tailed CIFAR sets, but at least 1; n_max is the size of the largest class. A
    class that has fewer keeps those it has: of balanced classes the first is `ratio` times as large
    as the last, of others that is so only as far as they reach. ratio 1 keeps everything.

    Which images are kept is drawn by class. seed fixes it and the global random stream is left
    alone; under one seed a longer tail keeps a part of what a shorter one keeps.

    Args:
        labels: int64 [N].
        num_classes: C, at least 2.
        ratio: largest over smallest class, at least 1.
        seed: at least 0.

    Returns:
        int64 [n]: positions in labels, ascending.

    Raises:
        ValueError: a value or a label is out of range.

    Examples:
        >>> import torch
        >>> from core.data import long_tail
        >>> labels = torch.arange(300) % 3
        >>> labels[long_tail(labels, 3, ratio=25, seed=0)].bincount().tolist()
        [100, 20, 4]
    """
    if not 1 <= ratio < math.inf:
        raise ValueError(f"ratio must be finite and at least 1, got {ratio}")
    if num_classes < 2:
        raise ValueError(f"a long tail needs 2 classes or more, got {num_classes}")
    generator = derived_generator(seed, LONG_TAIL)
    classes = by_class(labels, num_classes)
    largest = max(map(len, classes))
    chosen = []
    for label, members in enumerate(classes):
        share = ratio ** (-label / (num_classes - 1))
        size = max(1, math.floor(largest * share + _ROUNDING))
        chosen.append(members[torch.randperm(len(members), generator=generator)[:size]])
    return torch.cat(chosen).sort().values


@on_cpu
def balanced_draws(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draws as many positions as there are labels, with replacement, by balanced classes.

    Each draw takes one of the classes that have a label, all equally likely, and then one of its
    labels, all equally likely.

    Args:
        labels: int64 [N] on the CPU, at least 0.
        generator: the stream, on the CPU; it moves by N integers and N numbers.

    Returns:
        int64 [N]: positions in labels.

    Examples:
        >>> import torch
        >>> from core.data import balanced_draws
        >>> labels = torch.tensor([0] * 990 + [1] * 10)
        >>> drawn = labels[balanced_draws(labels, torch.Generator().manual_seed(0))]
        >>> 450 < int(drawn.sum()) < 550
        True
    """
    present, counts = labels.unique(return_counts=True)
    drawn = torch.randint(len(present), (len(labels),), generator=generator)
    place = torch.rand(len(labels), generator=generator, dtype=torch.float64)
    first = counts.cumsum(0) - counts
    within = (place * counts[drawn]).long()
    return torch.argsort(labels, stable=True)[first[drawn] + within]

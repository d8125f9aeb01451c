"""This module gives a known part of the images wrong labels: symmetric noise and pair flips."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from core.data.names import NOISE_KINDS, NoiseKind
from core.data.on_cpu import on_cpu
from core.data.splits import by_class
from core.random_streams import LABEL_NOISE, derived_generator

__all__ = ["flip_labels"]


@on_cpu
def flip_labels(
    labels: np.ndarray | Tensor,
    num_classes: int,
    *,
    fraction: float,
    kind: NoiseKind = "symmetric",
    seed: int,
    stream: int = LABEL_NOISE,
) -> Tensor:
    """Replaces the labels of a fraction of the images of each class by wrong ones.

    Of the n_c images of class c exactly round(fraction · n_c) get another label (halves round to
    the even number), so fraction is the part of labels that are wrong:

    - "symmetric": each draws its label uniformly among the other C − 1 classes, never its own.
      Expected transition matrix: 1 − fraction on the diagonal, fraction / (C − 1) elsewhere (van
      Rooyen et al. 2015 for two classes, Patrini et al. 2017 for more). Where others draw among all
      C classes, only (C − 1) / C of their nominal fraction are wrong.
    - "pair": all become c + 1 mod C. Transition matrix: 1 − fraction on the diagonal, fraction
      right of it (Han et al. 2018; Patrini et al. 2017 do so within groups of classes). From 0.5
      on, a class has no majority of its own.

    seed fixes everything and the global random stream is left alone. Under one seed the flipped
    images are nested: those of a smaller fraction are among those of a larger one, with the same
    wrong labels, and both kinds flip the same images.

    Args:
        labels: int64 [N], not changed.
        num_classes: C, at least 2.
        fraction: in [0, 1].
        kind: one of NOISE_KINDS.
        seed: at least 0.
        stream: number of the stream that is drawn from, independent of those of other numbers.

    Returns:
        int64 [N] on the CPU, a copy.

    Raises:
        ValueError: a value or a label is out of range.

    Examples:
        >>> import torch
        >>> from core.data import flip_labels
        >>> labels = torch.arange(30) % 3
        >>> int((flip_labels(labels, 3, fraction=0.2, seed=0) != labels).sum())
        6
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must lie in [0, 1], got {fraction}")
    if kind not in NOISE_KINDS:
        raise ValueError(f"kind must be {' or '.join(NOISE_KINDS)}, got {kind!r}")
    if num_classes < 2:
        raise ValueError(f"a label can be wrong among 2 classes or more, got {num_classes}")
    generator = derived_generator(seed, stream)
    noisy = torch.empty(len(labels), dtype=torch.int64)
    for label, members in enumerate(by_class(labels, num_classes)):
        noisy[members] = label
        # Drawn for all, whatever the fraction and kind are: so flips are nested.
        shuffled = members[torch.randperm(len(members), generator=generator)]
        steps = torch.randint(1, num_classes, (len(members),), generator=generator)
        flips = round(fraction * len(members))
        moved = steps[:flips] if kind == "symmetric" else 1
        noisy[shuffled[:flips]] = (label + moved) % num_classes
    return noisy

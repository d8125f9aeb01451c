"""This module splits training images: meta-validation, subset, labelled and unlabelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from core.data.on_cpu import on_cpu

__all__ = ["Splits", "by_class", "make_splits"]


@dataclass(frozen=True, eq=False)
class Splits:
    """Splits are indices into a source's training part: int64, ascending, without repetition.

    meta_validation shares no image with train. labelled and unlabelled, where asked for, part train
    between them.

    Examples:
        >>> import numpy as np
        >>> from core.data import make_splits
        >>> splits = make_splits(np.arange(30) % 3, 3, meta_size=6, seed=0)
        >>> len(splits.train), len(splits.meta_validation), splits.labelled
        (24, 6, None)
    """

    train: Tensor
    meta_validation: Tensor
    labelled: Tensor | None = None
    unlabelled: Tensor | None = None

    def at(self, positions: Tensor) -> Splits:
        """Returns the splits of a part of which these were drawn, at positions, int64 ascending."""
        drawn = {name: part for name, part in vars(self).items() if part is not None}
        return replace(self, **{name: positions[part] for name, part in drawn.items()})


def by_class(labels: np.ndarray | Tensor, num_classes: int) -> tuple[Tensor, ...]:
    """Returns the positions (int64 [n_c], ascending) of the labels of classes 0..num_classes-1.

    Raises ValueError when one of labels (int64 [N]) lies outside.
    """
    given = torch.as_tensor(labels.copy() if isinstance(labels, np.ndarray) else labels).cpu()
    outside = torch.nonzero((given < 0) | (given >= num_classes)).flatten()
    if len(outside):
        index = int(outside[0])
        raise ValueError(
            f"label {int(given[index])} at index {index} lies outside 0..{num_classes - 1}"
        )
    counts = torch.bincount(given, minlength=num_classes)
    return torch.argsort(given, stable=True).split(counts.tolist())


@on_cpu
def make_splits(
    labels: np.ndarray | Tensor,
    num_classes: int,
    *,
    meta_size: int,
    seed: int,
    train_size: int | None = None,
    labelled: int | None = None,
    classes: Sequence[str] | None = None,
    checked: Tensor | None = None,
) -> Splits:
    """Draws a meta-validation set and a training set, and labels a part of it.

    labels int64 [N] are those of the training part. meta_size images are drawn class-balanced (1000
    of ten classes: 100 each, as the paper does); the rest trains, or a class-balanced subset of
    train_size images of it; labelled of these, class-balanced, keep their labels and all others
    are unlabelled. Where a size does not divide by num_classes, some classes, drawn at random, get
    one image more.

    seed fixes everything and the global random stream is left alone. Under one seed the sets are
    nested: a larger meta-validation set contains a smaller one where both divide by num_classes.
    classes are names for error messages. checked, bool [N] on the CPU, are the images from which
    the meta-validation set is drawn; those that are not drawn train. None: from all.

    Raises ValueError when a size is negative, a label lies outside 0..num_classes-1, or a class
    holds too few images.

    Examples:
        >>> import numpy as np
        >>> from core.data import make_splits
        >>> labels = np.arange(30) % 3
        >>> splits = make_splits(labels, 3, meta_size=6, seed=0, train_size=12, labelled=3)
        >>> np.bincount(labels[splits.meta_validation]).tolist(), len(splits.unlabelled)
        ([2, 2, 2], 9)
    """
    for name, size, least in (
        ("meta_size", meta_size, 0),
        ("train_size", train_size, 1),
        ("labelled", labelled, 1),
    ):
        if size is not None and size < least:
            raise ValueError(f"{name} must be >= {least}, got {size}")
    members = by_class(labels, num_classes)
    generator = torch.Generator().manual_seed(seed)
    # One shuffled queue for each class; every set takes its images from the front of what is left.
    queues = [queue[torch.randperm(len(queue), generator=generator)] for queue in members]

    def take(size: int, purpose: str, among: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        base, extra = divmod(size, num_classes)
        counts = torch.full((num_classes,), base)
        counts[torch.randperm(num_classes, generator=generator)[:extra]] += 1
        taken, remaining = [], []
        for label, (queue, count) in enumerate(zip(queues, counts.tolist(), strict=True)):
            allowed = torch.ones(len(queue), dtype=torch.bool) if among is None else among[queue]
            front = allowed & (allowed.cumsum(0) <= count)
            if int(front.sum()) < count:
                who = f"class {label}" + (f" ({classes[label]})" if classes is not None else "")
                raise ValueError(
                    f"{who} has {int(allowed.sum())} {'' if among is None else 'checked '}images "
                    f"left, needs {count} for {purpose}={size} over {num_classes} classes; choose "
                    f"a smaller {purpose}"
                )
            taken.append(queue[front])
            remaining.append(queue[~front])
        return torch.cat(taken).sort().values, remaining

    meta_validation, queues = take(meta_size, "meta_size", checked)
    if train_size is None:
        train = torch.cat(queues).sort().values
    else:
        train, remaining = take(train_size, "train_size")
        pairs = zip(queues, remaining, strict=True)
        queues = [queue[: len(queue) - len(rest)] for queue, rest in pairs]
    if not len(train):
        raise ValueError(f"meta_size={meta_size} leaves no training image of {len(labels)}")
    emptied = [c for c in range(num_classes) if len(members[c]) > 0 and not len(queues[c])]
    if emptied and train_size is None:
        names = [str(label) if classes is None else classes[label] for label in emptied]
        raise ValueError(
            f"no training image is left of class {', '.join(names[:5])}"
            f"{', ...' if len(names) > 5 else ''} (meta_size={meta_size}, {num_classes} classes); "
            "choose a smaller meta_size, or add images"
        )
    if labelled is None:
        return Splits(train, meta_validation)
    with_label, queues = take(labelled, "labelled")
    return Splits(train, meta_validation, with_label, torch.cat(queues).sort().values)

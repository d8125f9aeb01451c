"""This module holds the images of one training, on its device and ready for its loop."""

from __future__ import annotations

from dataclasses import dataclass

from core.data import ImageSet, Transform


@dataclass(frozen=True)
class CellData:
    """This is what one training reads.

    Attributes:
        train: what is trained on; with `meta_in_training` the meta-validation images come last.
        held_out: the fold that is not trained on, with `folds`; else empty.
        meta: the meta-validation images, disjoint from `train` but for `meta_in_training`.
        test: the whole test part.
        transform: augmentation, and normalisation by the statistics of `train`.
    """

    train: ImageSet
    held_out: ImageSet
    meta: ImageSet
    test: ImageSet
    transform: Transform

"""The images of one training on its device: splits and normalisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from core.config import TrainingConfig
from core.data import ImageSet, Source, Transform, make_splits


@dataclass(frozen=True)
class CellData:
    """What one training reads.

    Attributes:
        train: what is trained on; with `meta_in_training` the meta-validation images come last.
        meta: the meta-validation images, disjoint from `train` but for `meta_in_training`.
        test: the whole test part.
        transform: augmentation, and normalisation by the statistics of `train`.
    """

    train: ImageSet
    meta: ImageSet
    test: ImageSet
    transform: Transform


def prepare_data(config: TrainingConfig, source: Source, device: torch.device | str) -> CellData:
    """The splits of `config` as images on the device, with their normalisation.

    Raises:
        ValueError: the source has another image size than `config` names, or too few images.
    """
    if config.image_size not in (None, source.image_size):
        raise ValueError(
            f"the source {source.name!r} has images of {source.image_size} pixels, the "
            f"configuration says image_size={config.image_size}; load the source at that size"
        )
    splits = make_splits(
        torch.as_tensor(source.train_labels),
        source.num_classes,
        meta_size=config.meta_size,
        train_size=config.train_size,
        seed=config.seed,
    )
    indices = splits.train
    if config.meta_in_training:
        indices = torch.cat([splits.train, splits.meta_validation])
    train = source.images("train", indices, device)
    return CellData(
        train=train,
        meta=source.images("train", splits.meta_validation, device),
        test=source.images("test", None, device),
        transform=Transform.fit(train, flip=config.flip, translate=config.translate),
    )

"""The images of a semi-supervised training: few with labels, many without."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from core.data import ImageSet, Source, Transform
from core.training.config import TrainingConfig
from core.training.prepared_data import check_image_size, draw_splits, fit_transform


@dataclass(frozen=True)
class SemiData:
    """What one semi-supervised training reads.

    Attributes:
        labelled: class-balanced; with `meta_in_training` the meta-validation images come last.
        unlabelled: all other training images. Their labels are 0 throughout: there are none.
        true_labels: int64 [N_u] on the CPU: of `unlabelled`, for statistics alone.
        meta: the meta-validation images.
        test: the whole test part.
        transform: augmentation, and normalisation by the statistics of all training images.
    """

    labelled: ImageSet
    unlabelled: ImageSet
    true_labels: Tensor
    meta: ImageSet
    test: ImageSet
    transform: Transform


def prepare_semi_data(
    config: TrainingConfig, source: Source, device: torch.device | str
) -> SemiData:
    """Returns the splits of `config` as images on the device.

    Raises:
        ValueError: the source has another image size than `config` names, too few images, or none
            is left without a label.
    """
    check_image_size(config, source)
    splits = draw_splits(config, source)
    assert splits.labelled is not None
    assert splits.unlabelled is not None
    labelled = splits.labelled
    if config.meta_in_training:
        labelled = torch.cat([labelled, splits.meta_validation])
    blind = replace(source, train_labels=np.zeros_like(source.train_labels))
    true_labels = torch.from_numpy(source.train_labels[splits.unlabelled.numpy()])
    return SemiData(
        labelled=source.images("train", labelled, device),
        unlabelled=blind.images("train", splits.unlabelled, device),
        true_labels=true_labels,
        meta=source.images("train", splits.meta_validation, device),
        test=source.images("test", None, device),
        transform=fit_transform(config, source, blind.images("train", splits.train, device)),
    )

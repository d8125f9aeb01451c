"""The images of one training on its device: splits, long tail, wrong labels, normalisation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from core.data import (
    ImageSet,
    Source,
    Splits,
    Transform,
    flip_labels,
    long_tail,
    make_splits,
    read_labels,
)
from core.data.features import FeatureTransform
from core.data.imported import transform_of
from core.data.masks import unpack_mask
from core.data.prepared import CellData
from core.data.splits import by_class
from core.data.transforms import Augmentation
from core.random_streams import FOLDS, LABEL_NOISE, META_NOISE, derived_generator
from core.training.config import TrainingConfig


@dataclass(frozen=True)
class TrainingLabels:
    """Which N images a training trains on, under which labels, and which M it holds out.

    All int64 on the CPU: [N], the last [M].

    Attributes:
        indices: positions in the training part of the source, in the order of `CellData.train`.
        given: the labels it trains with.
        true: the labels that the source has.
        held_out: positions of the fold that is held out, ascending.
        meta: int64 [K], the labels of the K meta-validation images, in the order of `Splits`.
    """

    indices: Tensor
    given: Tensor
    true: Tensor
    held_out: Tensor
    meta: Tensor


def prepare_data(config: TrainingConfig, source: Source, device: torch.device | str) -> CellData:
    """Returns the splits of `config` as images on the device, with their normalisation.

    Raises:
        ValueError: the source has another image size than `config` names, or too few images.
    """
    check_image_size(config, source)
    splits = draw_splits(config, source)
    labels = _training_labels(config, source, splits)
    given = source.train_labels.copy()
    given[labels.indices.numpy()] = labels.given.numpy()
    given[splits.meta_validation.numpy()] = labels.meta.numpy()
    labeled = replace(source, train_labels=given)
    train = labeled.images("train", labels.indices, device)
    return CellData(
        train=train,
        held_out=source.images("train", labels.held_out, device),
        meta=labeled.images("train", splits.meta_validation, device),
        test=source.images("test", None, device),
        transform=fit_transform(config, source, train),
    )


def check_image_size(config: TrainingConfig, source: Source) -> None:
    """Raises ValueError where the source was loaded at another size than `config` names."""
    if config.image_size not in (None, source.image_size):
        raise ValueError(
            f"the source {source.name!r} has images of {source.image_size} pixels, the "
            f"configuration says image_size={config.image_size}; load the source at that size"
        )


def fit_transform(config: TrainingConfig, source: Source, images: ImageSet) -> Transform:
    """Returns the augmentation of `config`, and its normalisation by the statistics of `images`.

    Raises:
        ValueError: features, which are no images, are to be flipped, moved or normalized as such.
    """
    if not source.holds_images:
        for name, plain in (("flip", False), ("translate", 0), ("normalisation", "standard")):
            if getattr(config, name) != plain:
                raise ValueError(
                    f"{name}={getattr(config, name)!r} has no use with {source.name}, which holds "
                    f"features {list(source.shape)} and no images; leave it at {plain}"
                )
        features = FeatureTransform.fit_features(images, config.noise)
        return replace(features, augment=augmentation(config))
    fitted = Transform.fit(
        images,
        normalisation=config.normalisation,
        flip=config.flip,
        translate=config.translate,
        padding=config.padding,
        noise=config.noise,
    )
    return replace(fitted, augment=augmentation(config))


def augmentation(config: TrainingConfig) -> Augmentation | None:
    """Returns the augmentation of a batch that the user names, or None.

    Transforms of torchvision draw once for all that they are given: one that is named itself, or
    given as an object, is called on each image.

    Raises:
        ValueError: as `transform_of`.
    """
    if config.augment is None:
        return None
    transform = transform_of(config.augment)
    parts = [*transform] if isinstance(transform, nn.Sequential) else [transform]
    each = config.augment.startswith("torchvision.") or all(map(_of_torchvision, parts))
    return partial(_each, transform) if each else transform


def _of_torchvision(transform: Augmentation) -> bool:
    return type(transform).__module__.startswith("torchvision.")


def _each(transform: Augmentation, x: Tensor) -> Tensor:
    return torch.stack([transform(image) for image in x])


def draw_labels(config: TrainingConfig, source: Source) -> TrainingLabels:
    """Returns what `config` trains on, and reads no image.

    Labels are made wrong after the long tail is cut, and of `Splits.train` alone unless
    `config.meta_noise` says otherwise.

    Raises:
        ValueError: the source has too few images.
    """
    return _training_labels(config, source, draw_splits(config, source))


def _training_labels(config: TrainingConfig, source: Source, splits: Splits) -> TrainingLabels:
    true = torch.from_numpy(source.train_labels[splits.train.numpy()])
    carried = _carried(config, source)
    given = _noisy(config, carried[splits.train], source.num_classes, LABEL_NOISE)
    meta = torch.from_numpy(source.train_labels[splits.meta_validation.numpy()])
    true_meta = meta
    if config.meta_noise:
        noisy = carried[splits.meta_validation]
        meta = _noisy(config, noisy, source.num_classes, META_NOISE)
    held_out = _held_out(config, given, source.num_classes)
    trains = ~held_out
    if config.left_out is not None:
        trains &= ~unpack_mask(config.left_out, len(given))
        if not bool(trains.any()):
            raise ValueError("left_out leaves no training image; leave some of them in")
    indices, true, given = splits.train[trains], true[trains], given[trains]
    if config.meta_in_training:
        indices = torch.cat([indices, splits.meta_validation])
        true, given = torch.cat([true, true_meta]), torch.cat([given, meta])
    return TrainingLabels(indices, given, true, splits.train[held_out], meta)


def _carried(config: TrainingConfig, source: Source) -> Tensor:
    """Returns the label that each training image of the source carries before noise, int64 [N]."""
    if config.labels is None:
        return torch.from_numpy(source.train_labels.copy())
    return read_labels(config.labels, len(source.train_labels), source.num_classes)


def _checked(config: TrainingConfig, source: Source) -> Tensor | None:
    """Returns which training images of the source somebody has checked, bool [N]; None: all."""
    if config.checked is None:
        return None
    try:
        return read_labels(config.checked, len(source.train_labels), 2) == 1
    except ValueError as error:
        raise ValueError(f"checked: {error}") from error


def _noisy(config: TrainingConfig, labels: Tensor, num_classes: int, stream: int) -> Tensor:
    return flip_labels(
        labels,
        num_classes,
        fraction=config.label_noise,
        kind=config.label_noise_kind,
        seed=config.seed,
        stream=stream,
    )


def _held_out(config: TrainingConfig, given: Tensor, num_classes: int) -> Tensor:
    """Returns bool [N]: which images of `Splits.train`, under the labels given, are the fold held
    out."""
    held_out = torch.zeros(len(given), dtype=torch.bool)
    if config.folds == 0:
        return held_out
    if len(given) < config.folds:
        raise ValueError(f"folds={config.folds} of {len(given)} training images; choose fewer")
    generator = derived_generator(config.seed, FOLDS)
    shuffled = [
        members[torch.randperm(len(members), generator=generator)]
        for members in by_class(given, num_classes)
    ]
    # Dealt on from class to class, so that neither a class nor the whole differs by more than one.
    held_out[torch.cat(shuffled)[config.fold :: config.folds]] = True
    return held_out


def draw_splits(config: TrainingConfig, source: Source) -> Splits:
    """Returns the training and meta-validation images of `config`, the former cut to its long tail,
    or parted into labeled and unlabeled ones.

    Raises:
        ValueError: the source has too few images.
    """
    left = np.arange(len(source.train_labels))
    if config.dedup:
        left = np.delete(left, source.train_in_test)
    checked = _checked(config, source)
    splits = make_splits(
        source.train_labels[left],
        source.num_classes,
        meta_size=config.meta_size,
        train_size=config.train_size,
        seed=config.seed,
        labelled=None if config.semi is None else config.semi.labelled,
        classes=source.classes,
        checked=None if checked is None else checked[left],
    )
    if splits.unlabelled is not None and not len(splits.unlabelled):
        raise ValueError(
            f"labelled={len(splits.train)} leaves no unlabelled image; choose fewer labelled "
            "images, or a larger train_size"
        )
    if config.dedup:
        splits = splits.at(torch.from_numpy(left))
    positions = long_tail(
        source.train_labels[splits.train.numpy()],
        source.num_classes,
        ratio=config.imbalance,
        seed=config.seed,
    )
    return replace(splits, train=splits.train[positions])

"""This package holds data sets, named or the user's own, splits, batches and augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.lazy import lazily

if TYPE_CHECKING:
    from core.data.arrays import source_from_arrays
    from core.data.catalog import DATASETS, DatasetSpec, default_root
    from core.data.formats import DataFileError
    from core.data.images import DeviceImages, ImageSet
    from core.data.imbalance import balanced_draws, long_tail
    from core.data.label_file import read_labels, with_fingerprint
    from core.data.label_noise import flip_labels
    from core.data.names import (
        NOISE_KINDS,
        NORMALISATIONS,
        PADDINGS,
        NoiseKind,
        Normalisation,
        Padding,
    )
    from core.data.source import Source
    from core.data.sources import load_source
    from core.data.splits import Splits, make_splits
    from core.data.streaming import StreamedImages
    from core.data.transforms import Transform
    from core.data.whitening import Whitening

__all__ = [
    "DATASETS",
    "NOISE_KINDS",
    "NORMALISATIONS",
    "PADDINGS",
    "DataFileError",
    "DatasetSpec",
    "DeviceImages",
    "ImageSet",
    "NoiseKind",
    "Normalisation",
    "Padding",
    "Source",
    "Splits",
    "StreamedImages",
    "Transform",
    "Whitening",
    "balanced_draws",
    "default_root",
    "flip_labels",
    "load_source",
    "long_tail",
    "make_splits",
    "read_labels",
    "source_from_arrays",
    "with_fingerprint",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__)

"""What each named data set looks like: channels, size, classes, counts, and the files it needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

__all__ = ["DATASETS", "DatasetSpec", "default_root"]

_IDX_FILES = tuple(
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)


@dataclass(frozen=True)
class DatasetSpec:
    """One data set as published.

    image_size is the height and the width in pixels; train_size and test_size count images. files
    are the paths below the data root that must be there, in torchvision's own layout. A streamed
    data set is decoded from its files during training, the others lie in memory.
    """

    name: str
    in_channels: int
    image_size: int
    num_classes: int
    train_size: int
    test_size: int
    files: tuple[str, ...] = ()
    streamed: bool = False


_SPECS = (
    DatasetSpec("digits", 1, 8, 10, 1297, 500),
    DatasetSpec("mnist", 1, 28, 10, 60_000, 10_000, tuple(f"MNIST/raw/{f}" for f in _IDX_FILES)),
    DatasetSpec(
        "fashion_mnist",
        1,
        28,
        10,
        60_000,
        10_000,
        tuple(f"FashionMNIST/raw/{f}" for f in _IDX_FILES),
    ),
    DatasetSpec("svhn", 3, 32, 10, 73_257, 26_032, ("train_32x32.mat", "test_32x32.mat")),
    DatasetSpec(
        "cifar10",
        3,
        32,
        10,
        50_000,
        10_000,
        (
            *(f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)),
            "cifar-10-batches-py/test_batch",
            "cifar-10-batches-py/batches.meta",
        ),
    ),
    DatasetSpec(
        "cifar100",
        3,
        32,
        100,
        50_000,
        10_000,
        ("cifar-100-python/train", "cifar-100-python/test", "cifar-100-python/meta"),
    ),
    DatasetSpec(
        "imagenet",
        3,
        100,
        1000,
        1_281_167,
        50_000,
        ("imagenet/train", "imagenet/val"),
        streamed=True,
    ),
)

DATASETS: Mapping[str, DatasetSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})
"""The data sets by name, in the order in which tables list them; `folder:PATH` comes on top."""


def default_root() -> Path:
    """The folder of data sets when none is named.

    That is $METAMIXUP_DATA where it is set, otherwise `metamixup-hpo` in the user's cache folder
    ($XDG_CACHE_HOME, or ~/.cache).
    """
    if chosen := os.environ.get("METAMIXUP_DATA"):
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "metamixup-hpo"

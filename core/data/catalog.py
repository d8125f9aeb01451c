"""This module lists the named data sets: channels, size, classes, counts and files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

__all__ = ["DATASETS", "DatasetSpec", "default_root"]


@dataclass(frozen=True)
class DatasetSpec:
    """This is one data set as published.

    image_size is the height and the width in pixels; train_size and test_size count images. files
    are the paths below the data root that must be there, in torchvision's own layout. A streamed
    data set is decoded from its files during training, the others lie in memory.

    Examples:
        >>> from core.data import DATASETS
        >>> DATASETS["cifar10"].train_size, DATASETS["cifar10"].image_size
        (50000, 32)
    """

    name: str
    in_channels: int
    image_size: int
    num_classes: int
    train_size: int
    test_size: int
    files: tuple[str, ...] = ()
    streamed: bool = False


def _idx_files(folder: str) -> tuple[str, ...]:
    kinds = ("images-idx3", "labels-idx1")
    return tuple(
        f"{folder}/raw/{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in kinds
    )


_CIFAR10_FILES = (
    *(f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)),
    "cifar-10-batches-py/test_batch",
    "cifar-10-batches-py/batches.meta",
)
_CIFAR100_FILES = tuple(f"cifar-100-python/{name}" for name in ("train", "test", "meta"))
_SVHN_FILES = ("train_32x32.mat", "test_32x32.mat")
_IMAGENET_FOLDERS = ("imagenet/train", "imagenet/val")

_SPECS = (
    DatasetSpec("digits", 1, 8, 10, 1297, 500),
    DatasetSpec("mnist", 1, 28, 10, 60_000, 10_000, _idx_files("MNIST")),
    DatasetSpec("fashion_mnist", 1, 28, 10, 60_000, 10_000, _idx_files("FashionMNIST")),
    DatasetSpec("svhn", 3, 32, 10, 73_257, 26_032, _SVHN_FILES),
    DatasetSpec("cifar10", 3, 32, 10, 50_000, 10_000, _CIFAR10_FILES),
    DatasetSpec("cifar100", 3, 32, 100, 50_000, 10_000, _CIFAR100_FILES),
    DatasetSpec("imagenet", 3, 100, 1000, 1_281_167, 50_000, _IMAGENET_FOLDERS, streamed=True),
)

DATASETS: Mapping[str, DatasetSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})
"""The data sets by name, in the order in which tables list them; `folder:PATH` comes on top."""


def default_root() -> Path:
    """Returns the folder of data sets when none is named.

    That is $METAMIXUP_DATA where it is set, otherwise `metamixup-hpo` in the user's cache folder
    ($XDG_CACHE_HOME, or ~/.cache).

    Examples:
        >>> from core.data import default_root
        >>> default_root().is_absolute()
        True
    """
    if chosen := os.environ.get("METAMIXUP_DATA"):
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "metamixup-hpo"

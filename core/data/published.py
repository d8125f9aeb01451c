"""This module finds on disk, or downloads, and reads published data sets that fit into memory."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from core.data.catalog import DATASETS, DatasetSpec
from core.data.formats import read_cifar, read_cifar_classes, read_idx_pair, read_svhn
from core.data.optional import part_of_hpo

__all__ = ["load_published"]

Part = tuple[np.ndarray, np.ndarray]
"""(uint8 [N, C, S, S], int64 [N])"""

_DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package dataset-fashion-mnist puts its four idx files, gzipped."""

_FASHION = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
_FASHION_CLASSES = tuple(_FASHION.split(", "))
_DIGITS = tuple(str(digit) for digit in range(10))
_CONNECT_SECONDS = 10.0


def load_published(name: str, root: Path, download: bool) -> tuple[Part, Part, tuple[str, ...]]:
    """Reads one of `DATASETS` (not imagenet): training part, test part, names of the classes.

    Raises FileNotFoundError, naming the files and where they belong, when they are not there and
    cannot be downloaded; `DataFileError` when one is damaged.
    """
    if name == "digits":
        return _load_digits()
    spec = DATASETS[name]
    paths = _locate(spec, root)
    if paths is None and download:
        _download(spec, root)
        paths = _locate(spec, root)
    if paths is None:
        raise _not_there(spec, root, "it is not on disk and download is off")
    if name in ("mnist", "fashion_mnist"):
        classes = _DIGITS if name == "mnist" else _FASHION_CLASSES
        return (
            read_idx_pair(paths[0], paths[1], spec.image_size, spec.num_classes),
            read_idx_pair(paths[2], paths[3], spec.image_size, spec.num_classes),
            classes,
        )
    if name == "svhn":
        return read_svhn(paths[0]), read_svhn(paths[1]), _DIGITS
    key, names = "labels", "label_names"
    if name == "cifar100":
        key, names = "fine_labels", "fine_label_names"
    *train, test, meta = paths
    return (
        read_cifar(train, key, spec.num_classes),
        read_cifar([test], key, spec.num_classes),
        read_cifar_classes(meta, names, spec.num_classes),
    )


def _load_digits() -> tuple[Part, Part, tuple[str, ...]]:
    """Returns scikit-learn's 1797 digits, 8 x 8 pixels, 0..16 scaled to 0..255.

    The test part is the same for every seed: 50 images of each digit, evenly spaced through the
    file, so that all its writers are in both parts.
    """
    bunch = part_of_hpo("sklearn.datasets", "the data set digits").load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    test = np.zeros(len(labels), bool)
    each = DATASETS["digits"].test_size // len(_DIGITS)
    for digit in range(len(_DIGITS)):
        members = np.flatnonzero(labels == digit)
        test[members[np.arange(each) * len(members) // each]] = True
    return (images[~test], labels[~test]), (images[test], labels[test]), _DIGITS


def _find(spec: DatasetSpec, root: Path) -> dict[str, Path | None]:
    """Returns where each of spec.files is, None if it is missing; idx files may be gzipped."""
    packed = spec.name in ("mnist", "fashion_mnist")
    suffixes = ("", ".gz") if packed else ("",)
    places = {file: [root / f"{file}{suffix}" for suffix in suffixes] for file in spec.files}
    return {
        file: next((path for path in paths if path.is_file()), None)
        for file, paths in places.items()
    }


def _locate(spec: DatasetSpec, root: Path) -> list[Path] | None:
    """Returns the files of a data set in the order of spec.files, or None when one is missing."""
    places = [list(_find(spec, root).values())]
    if spec.name == "fashion_mnist":
        system = [_DEBIAN_FASHION_MNIST / f"{Path(file).name}.gz" for file in spec.files]
        places.append([path if path.is_file() else None for path in system])
    for paths in places:
        present = [path for path in paths if path is not None]
        if len(present) == len(paths):
            return present
    return None


def _not_there(spec: DatasetSpec, root: Path, why: str) -> FileNotFoundError:
    missing = [str(root / file) for file, path in _find(spec, root).items() if path is None]
    what = "these files (gzipped with .gz, or not)" if "MNIST" in spec.files[0] else "these files"
    package = "install Debian's package dataset-fashion-mnist; or "
    debian = package if spec.name == "fashion_mnist" else ""
    return FileNotFoundError(
        f"{spec.name}: {why}. Put {what} there: {', '.join(missing)}; or {debian}"
        "name the data root that has them"
    )


@contextmanager
def _short_timeout() -> Iterator[None]:
    # torchvision opens its connections without a timeout, and would wait for a dead network.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_CONNECT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _download(spec: DatasetSpec, root: Path) -> None:
    """Fetches a data set with torchvision, from its addresses, checked by its MD5 sums."""
    from core.data.torchvision_compat import torchvision

    sets = torchvision.datasets
    try:
        with _short_timeout():
            if spec.name in ("cifar10", "cifar100"):
                cifar = sets.CIFAR10 if spec.name == "cifar10" else sets.CIFAR100
                sets.utils.download_and_extract_archive(
                    cifar.url, str(root), filename=cifar.filename, md5=cifar.tgz_md5
                )
            elif spec.name == "svhn":
                for part in ("train", "test"):
                    url, filename, md5 = sets.SVHN.split_list[part]
                    sets.utils.download_url(url, str(root), filename, md5)
            else:
                mnist = sets.MNIST if spec.name == "mnist" else sets.FashionMNIST
                _download_idx(mnist, (root / spec.files[0]).parent)
    # urllib's errors are OSErrors; torchvision raises RuntimeError for a wrong MD5 sum.
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise _not_there(spec, root, f"the download failed ({error})") from error


def _download_idx(mnist: Any, folder: Path) -> None:
    """Fetches the four files of an MNIST-like data set from the first mirror that has each."""
    from core.data.torchvision_compat import torchvision

    for filename, md5 in mnist.resources:
        for mirror in mnist.mirrors:
            try:
                torchvision.datasets.utils.download_url(
                    mirror + filename, str(folder), filename, md5
                )
                break
            except (OSError, RuntimeError, http.client.HTTPException):
                if mirror == mnist.mirrors[-1]:
                    raise

"""This module reads the files of published data sets strictly: idx, CIFAR pickles, SVHN .mat.

torchvision's own readers trust the file: a cut idx file ends in an assertion, and under numpy 2.4.0
to 2.4.4 every CIFAR pickle warns. These check what they read, and every error is a `DataFileError`
that names the file and what is wrong with it. Images come back as uint8 [N, C, H, W], labels as
int64 [N].
"""

from __future__ import annotations

import gzip
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from core.data.optional import part_of_hpo

__all__ = [
    "DataFileError",
    "read_cifar",
    "read_cifar_classes",
    "read_idx",
    "read_idx_pair",
    "read_svhn",
]


class DataFileError(ValueError):
    """A data file cannot be read or does not hold what its format promises.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from core.data import DataFileError
        >>> from core.data.formats import read_idx
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "labels").write_bytes(b"none")
        ...     try:
        ...         read_idx(Path(folder, "labels"), 1)
        ...     except DataFileError as error:
        ...         print("delete the file and fetch it again" in str(error))
        True
    """


def _corrupt(path: Path, what: str) -> DataFileError:
    return DataFileError(f"{path}: {what}; delete the file and fetch it again")


def _check_labels(path: Path, labels: np.ndarray, low: int, high: int) -> None:
    wrong = np.flatnonzero((labels < low) | (labels > high))
    if wrong.size:
        index = int(wrong[0])
        raise _corrupt(
            path, f"label {int(labels[index])} at index {index} lies outside {low}..{high}"
        )


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Reads an idx file of unsigned bytes, gzipped when its name ends in .gz.

    The format (yann.lecun.com/exdb/mnist): two zero bytes, 8 for uint8, the number of dimensions,
    each size as a big-endian 32-bit integer, then the values. dimensions is how many there must be.
    Returns a read-only uint8 array.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rb") as stream:
                data = stream.read()
        else:
            data = path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _corrupt(path, f"the gzip stream is cut short or damaged ({error})") from error
    header = 4 + 4 * dimensions
    magic = bytes((0, 0, 8, dimensions))
    if data[:4] != magic:
        raise _corrupt(path, f"starts with the bytes {data[:4].hex()}, must be {magic.hex()}")
    if len(data) < header:
        raise _corrupt(path, f"ends after {len(data)} bytes, inside its {header}-byte header")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", dimensions, offset=4))
    expected = header + int(np.prod(shape, dtype=np.int64))
    if len(data) != expected:
        raise _corrupt(path, f"holds {len(data)} bytes, its header {shape} asks for {expected}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def read_idx_pair(
    images: Path, labels: Path, image_size: int, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Reads MNIST-like images uint8 [N, 1, S, S] and labels int64 [N] from two idx files."""
    pixels = read_idx(images, 3)
    if not len(pixels) or pixels.shape[1:] != (image_size, image_size):
        raise _corrupt(
            images, f"holds images {pixels.shape}, must be (N, {image_size}, {image_size})"
        )
    classes = read_idx(labels, 1)
    if len(pixels) != len(classes):
        raise _corrupt(labels, f"holds {len(classes)} labels for {len(pixels)} images in {images}")
    _check_labels(labels, classes, 0, num_classes - 1)
    return pixels[:, None], classes.astype(np.int64)


def _dtype(name: str, align: object = False, copy: object = False) -> np.dtype[Any]:
    # The files were written by Python 2's numpy, with 0 and 1 for the flags; numpy 2.4.0 to
    # 2.4.4 warn about anything but booleans.
    return np.dtype(name, bool(align), bool(copy))


_reconstruct: Any = np.empty(0).__reduce__()[0]


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays, containers, numbers and strings; a pickle can run no other code."""

    _allowed: ClassVar[dict[tuple[str, str], Callable[..., Any]]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): _dtype,
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("_codecs", "encode"): str.encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"asks for {module}.{name}") from None


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            entry = _ArrayUnpickler(stream, encoding="latin1").load()
    # A damaged pickle can raise nearly anything: it is a program for a stack machine.
    except Exception as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise _corrupt(path, f"is no pickle of a CIFAR batch ({error})") from error
    if not isinstance(entry, dict):
        raise _corrupt(path, f"holds a {type(entry).__name__}, must hold a dict")
    return entry


def read_cifar(
    paths: list[Path], label_key: str, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Reads CIFAR batches ("python version"), one after the other.

    label_key is "labels" (CIFAR-10) or "fine_labels" (CIFAR-100). Each row of "data" holds the red,
    green and blue planes of 32 x 32 pixels. Returns images [N, 3, 32, 32] and labels [N].
    """
    images, labels = [], []
    for path in paths:
        entry = _unpickle(path)
        for key in ("data", label_key):
            if key not in entry:
                raise _corrupt(path, f"lacks the key {key!r}, holds {sorted(map(str, entry))}")
        data = entry["data"]
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,):
            kind = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data)
            raise _corrupt(path, f"'data' is {kind}, must be a uint8 array [N, 3072]")
        classes = np.asarray(entry[label_key])
        if classes.dtype.kind not in "iu" or classes.shape != (len(data),):
            raise _corrupt(
                path, f"{label_key!r} is {classes.dtype} {classes.shape} for {len(data)} images"
            )
        _check_labels(path, classes, 0, num_classes - 1)
        images.append(data.reshape(-1, 3, 32, 32))
        labels.append(classes.astype(np.int64))
    return np.concatenate(images), np.concatenate(labels)


def read_cifar_classes(path: Path, key: str, num_classes: int) -> tuple[str, ...]:
    """Reads the class names from CIFAR's meta file (key "label_names" or "fine_label_names")."""
    names = _unpickle(path).get(key)
    if not isinstance(names, list) or len(names) != num_classes:
        count = len(names) if isinstance(names, list) else "no list"
        raise _corrupt(path, f"{key!r} must list {num_classes} class names, has {count}")
    return tuple(str(name) for name in names)


def read_svhn(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads SVHN's cropped digits ("format 2") from a Matlab file.

    "X" is uint8 [32, 32, 3, N]; "y" is [N, 1] with 10 for the digit zero, which becomes class 0.
    Returns images [N, 3, 32, 32] and labels [N].
    """
    scipy_io = part_of_hpo("scipy.io", "the data set svhn")
    try:
        content = scipy_io.loadmat(path)
    # scipy raises whatever the damaged spot leads to.
    except Exception as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise _corrupt(path, f"is no readable Matlab file ({error})") from error
    for key in ("X", "y"):
        if key not in content:
            raise _corrupt(path, f"lacks the variable {key!r}")
    images, labels = content["X"], content["y"].reshape(-1).astype(np.int64)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
        raise _corrupt(path, f"'X' is {images.dtype} {images.shape}, must be uint8 (32, 32, 3, N)")
    if images.shape[3] != len(labels):
        raise _corrupt(path, f"holds {len(labels)} labels for {images.shape[3]} images")
    _check_labels(path, labels, 1, 10)
    return np.ascontiguousarray(images.transpose(3, 2, 0, 1)), labels % 10

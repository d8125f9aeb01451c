"""This module reads labels from a file: one integer for each training image of a data set."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["read_labels", "with_fingerprint"]

_FINGERPRINT = re.compile(r"(.*)#([0-9a-f]{16})")


def with_fingerprint(file: str) -> str:
    """Returns FILE#FINGERPRINT, by which labels are recognized after the file was written anew.

    Args:
        file: see `read_labels`.

    Raises:
        ValueError: as `read_labels`.

    Examples:
        >>> from core.data import with_fingerprint
        >>> with_fingerprint("labels.txt#0123456789abcdef")  # has one
        'labels.txt#0123456789abcdef'
    """
    if _FINGERPRINT.fullmatch(file):
        return file
    path, separator, column = file.partition("::")
    place = f"{Path(path).expanduser().absolute()}{separator}{column}"
    return f"{place}#{_fingerprint(_values(place))}"


def read_labels(file: str, size: int, num_classes: int) -> Tensor:
    """Reads a label for each training image of a data set, in its order.

    Args:
        file: PATH of a text file (a number a line), .csv (one column, with a heading or without),
            .npy or .npz (one array, bool or integer); PATH::NAME is a column of several or an
            array of several. With #FINGERPRINT behind it, the labels must be the ones of
            `with_fingerprint`.
        size: N, training images of the data set.
        num_classes: C.

    Returns:
        int64 [N], in [0, C).

    Raises:
        ValueError: the file cannot be read, has another number of labels, or one that is no integer
            in [0, C).

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from core.data import read_labels
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "labels.txt")
        ...     _ = file.write_text("2\\n0\\n1\\n")
        ...     read_labels(str(file), 3, 3).tolist()
        [2, 0, 1]
    """
    match = _FINGERPRINT.fullmatch(file)
    place, expected = match.groups() if match else (file, None)
    values = _values(place)
    if expected is not None and _fingerprint(values) != expected:
        raise ValueError(
            f"labels {place} has changed since this training was begun (fingerprint {expected}, "
            f"now {_fingerprint(values)}); put the old file back, or name the new one anew"
        )
    if len(values) != size:
        raise ValueError(
            f"labels {place} has {len(values)} labels for {size} training images; give one for "
            "each, in the order of the data set"
        )
    outside = (values < 0) | (values >= num_classes)
    if outside.any():
        at = int(outside.argmax())
        raise ValueError(
            f"labels {place} has {values[at]} at index {at}; labels must lie in "
            f"[0, {num_classes - 1}]"
        )
    return torch.from_numpy(values)


def _fingerprint(values: np.ndarray) -> str:
    return hashlib.blake2b(values.tobytes(), digest_size=8).hexdigest()


def _values(place: str) -> np.ndarray:
    """Returns the integers of a file as int64 [n]; raises ValueError where they are none."""
    path, _, name = place.partition("::")
    file = Path(path).expanduser()
    values = _array(file, name) if file.suffix in (".npy", ".npz") else _column(file, name)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.dtype == np.bool_:
        values = values.astype(np.int64)
    whole = values.ndim == 1 and values.dtype.kind in "iuf"
    if not whole or not (np.isfinite(values) & (values == np.floor(values))).all():
        raise ValueError(
            f"labels {path} must hold one integer a training image, got {values.dtype} "
            f"{list(values.shape)}"
        )
    return np.ascontiguousarray(values, dtype=np.int64)


def _array(file: Path, name: str) -> np.ndarray:
    with _readable(file):
        loaded = np.load(file, allow_pickle=False)
        arrays = {"": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    chosen = name or (next(iter(arrays)) if len(arrays) == 1 else None)
    if chosen not in arrays:
        raise ValueError(
            f"labels {file} holds the arrays {', '.join(arrays)}; choose one: {file}::NAME"
        )
    return arrays[chosen]


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turns what reading a file raises into a `ValueError` that names it."""
    try:
        yield
    except Exception as error:  # NumPy raises many kinds on a broken file
        raise ValueError(
            f"labels {file} cannot be read: {type(error).__name__}: {error}; give a text, csv, npy "
            "or npz file with one integer a training image"
        ) from error


def _column(file: Path, name: str) -> np.ndarray:
    with _readable(file):
        text = file.read_text(encoding="utf-8-sig")
        lines = [line for line in csv.reader(text.splitlines()) if line]
    if not lines:
        raise ValueError(f"labels {file} is empty; give one integer a training image")
    heading = [] if _is_number(lines[0][0]) else [cell.strip() for cell in lines[0]]
    wide = max(map(len, lines)) > 1
    if (name or wide) and name not in heading:
        columns = ", ".join(heading) or "no heading"
        raise ValueError(
            f"labels {file} has several columns ({columns}); choose one by its heading: "
            f"{file}::NAME"
        )
    at = heading.index(name) if name else 0
    numbers = []
    for number, line in enumerate(lines[bool(heading) :]):
        cell = line[at].strip() if at < len(line) else ""
        if not re.fullmatch(r"[+-]?\d+", cell):
            raise ValueError(
                f"labels {file} has {cell!r} for image {number}; give one integer a training image"
            )
        numbers.append(int(cell))
    with _readable(file):
        return np.array(numbers, dtype=np.int64)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

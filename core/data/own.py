"""This module reads a user's own data set, arrays, or torch's `Dataset`s."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.data.source import hashes_of
from core.data.streamed_items import DatasetItems, read_batches
from core.random_streams import seeded

__all__ = ["read_own"]

Items = np.ndarray | DatasetItems
"""uint8 images [N, C, S, S] or float32 features [N, ...], or what streams them."""

Part = tuple[Items, np.ndarray]
"""Items, and int64 labels [N]."""

_CORE = "the bench is for one integer label an item; `core` takes soft targets and own losses"


def read_own(name: str, given: Any, memory_limit: int) -> tuple[Part, Part, tuple[str, ...]]:
    """Returns both parts of a user's data set, checked, and the class names.

    given is (train, test), each a `torch.utils.data.Dataset` of (PIL image or tensor, label), or a
    pair of arrays or tensors (x, y). What is uint8, or PIL, are square images [N, S, S] or
    [N, C, S, S]; floating point are features [N, ...] of any shape, which are normalized along
    their first dimension and never flipped or moved. Datasets of more bytes than memory_limit, and
    those whose items differ from reading to reading, as augmented ones do, are read once, for
    labels and hashes, and then streamed.

    Raises:
        ValueError: it is no data set with one label an item.
    """
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise ValueError(
            f"{name} must return (train, test), got {type(given).__name__}"
            f"{f' of {len(given)}' if isinstance(given, (tuple, list)) else ''}"
        )
    parts = [
        _part(f"{name}: {which}", part, memory_limit)
        for which, part in zip(("train", "test"), given, strict=True)
    ]
    shapes = [_kind(x) for x, _ in parts]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{name}: train items are {shapes[0]}, test items {shapes[1]}; they must agree"
        )
    classes = getattr(given[0], "classes", None)
    count = 1 + max(int(y.max()) for _, y in parts)
    names = tuple(map(str, range(count) if classes is None else classes))
    if len(names) < max(2, count):
        raise ValueError(f"{name}: labels reach {count - 1} and there are {len(names)} classes")
    absent = np.setdiff1d(np.arange(len(names)), parts[0][1])
    if absent.size:
        raise ValueError(f"{name}: class {names[absent[0]]} has no training item; label from 0 on")
    return parts[0], parts[1], names


def _kind(items: Items) -> tuple[np.dtype[Any], tuple[int, ...]]:
    if isinstance(items, np.ndarray):
        return items.dtype, items.shape[1:]
    return np.dtype(np.uint8 if items.images else np.float32), items.shape


def _part(what: str, given: Any, memory_limit: int) -> Part:
    if isinstance(given, (tuple, list)) and len(given) == 2:
        x, y = _as_array(what, given[0]), given[1]
        y = y.numpy(force=True) if isinstance(y, Tensor) else y
        items: Items = _checked(what, x)
        count = len(x)
    elif hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        items, y = _read(what, given, memory_limit)
        count = len(given)
    else:
        raise ValueError(
            f"{what} is of type {type(given).__name__}; return a Dataset with a length, or (x, y)"
        )
    labels = _labels(what, y)
    if len(labels) != count or not count:
        raise ValueError(f"{what} has {count} items and {len(labels)} labels; give one each")
    return items, labels


def _read(what: str, items: Any, memory_limit: int) -> tuple[Items, list[Any]]:
    """Returns all items of a Dataset, or what streams them, and their labels."""
    if not len(items):
        raise ValueError(f"{what} is empty")
    with seeded(0):
        first = _item(what, items, 0)[0]
    read = partial(_at, what, first.shape, first.dtype)
    draws = _draws(what, items, range(0, len(items), -(-len(items) // 16)))
    if first.nbytes * len(items) <= memory_limit and not draws:
        with seeded(0):
            whole = read(items, list(range(len(items))))
        # Some draw for rare classes alone.
        draws = _draws(what, items, _firsts_of_each(whole[1]))
        if not draws:
            return whole
    hashes, labels = [], []
    for x, y in read_batches(items, read, torch.arange(len(items)).split(64), seed=0):
        hashes.append(hashes_of(x))
        labels += y
    shape, images = _checked(what, first[None]).shape[1:], first.dtype == np.uint8
    return DatasetItems(items, read, shape, images, np.concatenate(hashes), draws), labels


def _draws(what: str, items: Any, rows: Sequence[int]) -> bool:
    """Says whether some of these items are others at a second reading.

    Raises:
        ValueError: they are so where the global random streams are the same.
    """

    def read(seed: int) -> list[tuple[tuple[int, ...], bytes]]:
        with seeded(seed):
            values = [_item(what, items, i)[0] for i in rows]
        return [(value.shape, value.tobytes()) for value in values]

    once = read(1)
    if read(1) != once:
        raise ValueError(
            f"{what} draws from a random stream of its own, which no seed of a training reaches, "
            "and processes that read it would all draw alike; draw from torch's, Python's or "
            "NumPy's global stream (torch.rand, random, np.random.rand)"
        )
    return read(2) != once


def _firsts_of_each(labels: Iterable[Any]) -> list[int]:
    """Returns the positions of the first two items of each label."""
    rows: dict[str, list[int]] = defaultdict(list)
    for i, label in enumerate(labels):
        rows[str(label)].append(i)
    return [i for positions in rows.values() for i in positions[:2]]


def _at(
    what: str, shape: tuple[int, ...], dtype: np.dtype[Any], items: Any, positions: list[int]
) -> tuple[np.ndarray, list[Any]]:
    """Returns items at these positions, checked, and their labels."""
    out = np.empty((len(positions), *shape), dtype)
    labels = []
    for row, i in enumerate(positions):
        value, label = _item(what, items, i)
        if (value.shape, value.dtype) != (shape, dtype):
            raise ValueError(
                f"{what}[{i}] is {value.dtype} {value.shape}, item 0 is {dtype} {shape}; resize "
                "and convert all items alike in the Dataset"
            )
        out[row] = value
        labels.append(label)
    return _checked(what, out), labels


def _item(what: str, items: Any, i: int) -> tuple[np.ndarray, Any]:
    try:
        item, label = items[i]
    except Exception as error:  # a user's code may raise anything
        raise ValueError(
            f"{what}[{i}] gives no (item, label): {type(error).__name__}: {error}"
        ) from error
    plain = isinstance(label, Tensor) and label.ndim == 0
    return _as_array(f"{what}[{i}]", item), label.item() if plain else label


def _as_array(what: str, item: Any) -> np.ndarray:
    """Returns an item, or all of them, as an array; of a PIL image with channels first."""
    if _is_pil(item) and item.mode[0] in "IF":  # PIL would clip them at 255
        raise ValueError(
            f"{what} is a PIL image of mode {item.mode}, with more than 8 bits a pixel; give "
            "8 bits, or a floating point array, in the Dataset"
        )
    try:
        return _array(item)
    except Exception as error:  # PIL may read a file only now, and NumPy knows no ragged lists
        raise ValueError(
            f"{what} cannot be made an array: {type(error).__name__}: {error}"
        ) from error


def _array(item: Any) -> np.ndarray:
    if isinstance(item, Tensor):
        known = item.float() if item.dtype == torch.bfloat16 else item
        return known.numpy(force=True)
    if _is_pil(item):
        array = np.asarray(item if item.mode == "L" else item.convert("RGB"))
        return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return np.asarray(item)


def _is_pil(item: Any) -> bool:
    return hasattr(item, "convert") and hasattr(item, "mode")


_BLURRED = 2.0**-20
"""A feature's spread, as a part of its mean, of which float32 keeps less than 4 bits."""


def _checked(what: str, x: np.ndarray) -> np.ndarray:
    if x.dtype == np.uint8:
        images = x[:, None] if x.ndim == 3 else x
        if images.ndim != 4 or images.shape[2] != images.shape[3]:
            hint = ""
            if images.ndim == 4 and images.shape[1] == images.shape[2]:
                hint = "; move the channels forward: x.transpose(0, 3, 1, 2)"
            raise ValueError(
                f"{what}: uint8 images must be [N, S, S] or [N, C, S, S] (square), got "
                f"{list(x.shape)}{hint}"
            )
        return np.ascontiguousarray(images)
    if x.dtype.kind != "f" or x.ndim < 2:
        raise ValueError(
            f"{what}: items must be uint8 images or floating point features [N, ...], got "
            f"{x.dtype} {list(x.shape)}"
        )
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(x, np.float32)
    wrong = np.argwhere(~np.isfinite(single))
    if wrong.size:
        index = tuple(int(i) for i in wrong[0])
        raise ValueError(
            f"{what}: value {x[index]} at {index}; replace what is not finite in float32"
        )
    for feature in range(x.shape[1] if x.dtype.itemsize > single.itemsize else 0):
        values = x[:, feature]
        varies = values.min() < values.max()
        if varies and values.std() < _BLURRED * abs(mean := values.mean()):
            raise ValueError(
                f"{what}: feature {feature} varies by less than a millionth of its mean, "
                f"{mean:.6g}, which float32 does not resolve; subtract its mean"
            )
    return single


def _labels(what: str, given: Sequence[Any] | np.ndarray) -> np.ndarray:
    try:
        labels = np.asarray(given)
    except ValueError as error:
        raise ValueError(f"{what}: labels are of several shapes; {_CORE}") from error
    if labels.dtype.kind in "USO":
        raise ValueError(
            f"{what}: label {str(labels.flat[0])!r} is no integer; number the classes from 0, "
            "and name them in an attribute `classes` of the train Dataset"
        )
    if labels.ndim != 1:
        raise ValueError(f"{what}: labels are of shape {list(labels.shape)}; {_CORE}")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{what}: labels are {labels.dtype}, not integers; {_CORE}")
    if len(labels) and labels.min() < 0:
        raise ValueError(f"{what}: label {labels.min()} is below 0; number the classes from 0")
    return labels.astype(np.int64)

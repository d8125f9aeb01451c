"""This module reads a user's own data set, arrays, or torch's `Dataset`s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["read_own"]

Part = tuple[np.ndarray, np.ndarray]
"""uint8 images [N, C, S, S] or float32 features [N, ...], and int64 labels [N]."""

_CORE = "the bench is for one integer label an item; `core` takes soft targets and own losses"


def read_own(name: str, given: Any, memory_limit: int) -> tuple[Part, Part, tuple[str, ...]]:
    """Returns both parts of a user's data set, checked, and the class names.

    given is (train, test), each a `torch.utils.data.Dataset` of (PIL image or tensor, label), or a
    pair of arrays or tensors (x, y). What is uint8, or PIL, are square images [N, S, S] or
    [N, C, S, S]; floating point are features [N, ...] of any shape, which are normalized along
    their first dimension and never flipped or moved.

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
    shapes = [(x.dtype, x.shape[1:]) for x, _ in parts]
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


def _part(what: str, given: Any, memory_limit: int) -> Part:
    if isinstance(given, (tuple, list)) and len(given) == 2:
        x, y = (part.numpy(force=True) if isinstance(part, Tensor) else part for part in given)
        x = _checked(what, np.asarray(x))
    elif hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        x, y = _read(what, given, memory_limit)
        x = _checked(what, x)
    else:
        raise ValueError(
            f"{what} is of type {type(given).__name__}; return a Dataset with a length, or (x, y)"
        )
    labels = _labels(what, y)
    if len(labels) != len(x) or not len(x):
        raise ValueError(f"{what} has {len(x)} items and {len(labels)} labels; give one each")
    return x, labels


def _read(what: str, items: Any, memory_limit: int) -> tuple[np.ndarray, list[Any]]:
    """Returns all items of a Dataset, and their labels."""
    out: np.ndarray | None = None
    labels = []
    for i in range(len(items)):
        try:
            item, label = items[i]
        except Exception as error:  # a user's code may raise anything
            raise ValueError(
                f"{what}[{i}] gives no (item, label): {type(error).__name__}: {error}"
            ) from error
        value = _array(f"{what}[{i}]", item)
        if out is None:
            size = value.nbytes * len(items)
            if size > memory_limit:
                raise ValueError(
                    f"{what} takes {size / 2**30:.1f} GiB, and {memory_limit / 2**30:.1f} are held "
                    "in memory; write it as folder:PATH, which is streamed"
                )
            out = np.empty((len(items), *value.shape), value.dtype)
        if (value.shape, value.dtype) != (out.shape[1:], out.dtype):
            raise ValueError(
                f"{what}[{i}] is {value.dtype} {value.shape}, item 0 is {out.dtype} "
                f"{out.shape[1:]}; resize and convert all items alike in the Dataset"
            )
        out[i] = value
        labels.append(label.item() if isinstance(label, Tensor) and label.ndim == 0 else label)
    if out is None:
        raise ValueError(f"{what} is empty")
    return out, labels


def _array(what: str, item: Any) -> np.ndarray:
    if isinstance(item, Tensor):
        return item.numpy(force=True)
    if hasattr(item, "convert") and hasattr(item, "mode"):  # of PIL
        if item.mode[0] in "IF":  # PIL would clip them at 255
            raise ValueError(
                f"{what} is a PIL image of mode {item.mode}, with more than 8 bits a pixel; give "
                "8 bits, or a floating point array, in the Dataset"
            )
        array = np.asarray(item if item.mode == "L" else item.convert("RGB"))
        return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return np.asarray(item)


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
    wrong = np.argwhere(~np.isfinite(x))
    if wrong.size:
        index = tuple(int(i) for i in wrong[0])
        raise ValueError(f"{what}: value {x[index]} at {index}; replace what is not finite")
    return np.ascontiguousarray(x, np.float32)


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

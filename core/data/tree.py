"""This module lists image files in folders, one folder a class, with their sizes and kinds."""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from core.data.formats import DataFileError

__all__ = [
    "SUFFIXES",
    "Headers",
    "Tree",
    "failure",
    "num_threads",
    "orientation",
    "printable",
    "read_headers",
    "scan_tree",
]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
SIDEWAYS = (5, 6, 7, 8)
"""Orientations that exchange width and height."""

_GRAY_MODES = ("1", "L", "LA", "La", "I", "F")
_NAMED_FAILURES = 5
_R = TypeVar("_R")


def num_threads() -> int:
    """Returns how many threads decode images: the CPUs this process may use, at most 16."""
    if hasattr(os, "sched_getaffinity"):
        return min(16, len(os.sched_getaffinity(0)))
    return min(16, os.cpu_count() or 1)


@dataclass(frozen=True)
class Tree:
    """A tree holds the image files of one part.

    names holds paths relative to root as bytes (a fixed-width array: compact, and quick to send to
    other processes); labels int64 [N] are indices into classes, which are sorted. passed_over says
    what else lies there, such as "9 .tif in train/a".
    """

    root: str
    classes: tuple[str, ...]
    names: np.ndarray
    labels: np.ndarray
    passed_over: tuple[str, ...] = ()


def scan_tree(root: Path, part: str, known: Sequence[str] | None = None) -> Tree:
    """Lists root/part/CLASS/*.png|jpg|jpeg|bmp|webp (in any case), sorted by class and name.

    known are the classes of the training part: others are refused, missing ones are not missed.
    Folders and files whose names start with a dot are passed over in silence, files of other kinds
    and what lies deeper are counted. Raises FileNotFoundError for a missing folder, one without
    classes, or a link to a folder that is not there; ValueError for a class without images or not
    known.
    """
    folder = root / part
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is no folder; images must lie in {root}/{part}/CLASS/, one folder a class"
        )
    seen = [e for e in os.scandir(folder) if e.name[0] != "."]
    for entry in seen:
        if entry.is_symlink() and not os.path.exists(entry.path):
            raise FileNotFoundError(
                f"class folder {entry.path} is a link to {os.readlink(entry.path)}, which is not "
                "there; mount it, or remove the link"
            )
    present = sorted(e.name for e in seen if e.is_dir())
    passed_over = _kinds([e.name for e in seen if not e.is_dir()], part)
    if not present:
        raise FileNotFoundError(f"{folder} holds no class folder; lay images out as CLASS/NAME.png")
    classes = tuple(present if known is None else known)
    if strangers := [name for name in present if name not in classes]:
        raise ValueError(_stranger(strangers[0], folder, classes))
    names: list[bytes] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        if name not in present:
            continue
        entries = [e for e in os.scandir(folder / name) if e.name[0] != "."]
        files = sorted(e.name for e in entries if e.name.lower().endswith(SUFFIXES))
        others = [e for e in entries if not e.name.lower().endswith(SUFFIXES)]
        passed_over += _kinds([e.name for e in others if not e.is_dir()], f"{part}/{name}")
        for inner in (e for e in others if e.is_dir()):
            count = sum(len(inside) for _, _, inside in os.walk(inner.path))
            passed_over.append(f"{count} files in {part}/{name}/{inner.name}")
        if not files:
            raise ValueError(
                f"class folder {folder / name} holds no image ({', '.join(SUFFIXES)}); "
                "add images or remove the folder"
            )
        names += [os.fsencode(f"{part}/{name}/{file}") for file in files]
        labels += [label] * len(files)
    passed_over = [printable(text) for text in passed_over]
    labels_of_files = np.array(labels, np.int64)
    return Tree(str(root), classes, np.array(names), labels_of_files, tuple(passed_over))


def printable(name: str) -> str:
    """Returns the name with backslashes for bytes that are not UTF-8, which no file could hold."""
    return name.encode(errors="backslashreplace").decode()


def _kinds(names: Sequence[str], where: str) -> list[str]:
    """Returns how many files of each suffix there are, the most frequent first."""
    kinds = Counter(os.path.splitext(name)[1].lower() or "without suffix" for name in names)
    return [f"{count} {kind} in {where}" for kind, count in kinds.most_common()]


def _stranger(name: str, folder: Path, classes: Sequence[str]) -> str:
    """Returns what is said of a class that the training part lacks."""
    for known in classes:
        if unicodedata.normalize("NFC", known) == unicodedata.normalize("NFC", name):
            return (
                f"class {name!r} of {folder} and the training class {known!r} differ in Unicode "
                f"form only ({name!a}, {known!a}); rename one as the other"
            )
    return (
        f"class {name!r} of {folder} is not among the training classes "
        f"({', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''})"
    )


@dataclass(frozen=True)
class Headers:
    """This is what the files' headers say; sizes counts (width, height), deep is whether there are
    more than 8 bits a pixel."""

    sizes: Counter[tuple[int, int]]
    gray: bool
    deep: bool
    example: dict[tuple[int, int], str]
    """One file for each size."""
    turned: tuple[str, ...] = ()
    """Files that EXIF says to turn, below the tree's root."""


def read_headers(tree: Tree) -> Headers:
    """Reads every file's header (not its pixels) in threads.

    Raises `DataFileError` naming up to five files that are no images.
    """

    def read(name: bytes) -> tuple[tuple[int, int], str, int] | str:
        path = os.path.join(tree.root, os.fsdecode(name))
        try:
            with Image.open(path) as image:
                turn = orientation(image)
                return image.size[:: -1 if turn in SIDEWAYS else 1], image.mode, turn
        # Damaged images make PIL raise nearly anything.
        except Exception as error:
            return f"{path} ({error})"

    sizes: Counter[tuple[int, int]] = Counter()
    example: dict[tuple[int, int], str] = {}
    gray, deep = True, False
    failed, turned = [], []
    names = tree.names.tolist()
    parts = in_threads(lambda chunk: [read(name) for name in names[chunk]], len(names))
    for name, header in zip(names, itertools.chain.from_iterable(parts), strict=True):
        if isinstance(header, str):
            failed.append(header)
            continue
        size, mode, turn = header
        sizes[size] += 1
        if turn != 1:
            turned.append(printable(os.fsdecode(name)))
        example.setdefault(size, os.path.join(tree.root, os.fsdecode(name)))
        gray = gray and (mode in _GRAY_MODES or mode.startswith("I;"))
        deep = deep or mode.startswith("I")
    if failed:
        raise failure(failed)
    return Headers(sizes, gray, deep, example, tuple(turned))


def orientation(image: Image.Image) -> int:
    """Returns how a viewer turns the image (tag 274 of EXIF): 1 to 8, 1 as it is.

    Reads no pixels: of a PNG, whose EXIF may stand after them, only what stands before.
    """
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    turned = image.getexif().get(274, 1)
    return turned if turned in range(1, 9) else 1


def in_threads(work: Callable[[slice], _R], count: int) -> list[_R]:
    """Returns what `work` makes of 0..count, 256 at a time in a small thread pool, in order."""
    with ThreadPoolExecutor(num_threads()) as pool:
        return list(pool.map(work, (slice(i, i + 256) for i in range(0, count, 256))))


def failure(files: Sequence[str]) -> DataFileError:
    """Returns one error for all the files that could not be read, naming the first five."""
    more = len(files) - _NAMED_FAILURES
    listed = "; ".join(files[:_NAMED_FAILURES]) + (f"; and {more} more" if more > 0 else "")
    return DataFileError(
        f"{len(files)} image file(s) cannot be decoded: {listed}; replace or remove them"
    )

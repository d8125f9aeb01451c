"""This module looks at a data set before it is trained on: classes, equal items, files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from core.data.source import Part, Source

__all__ = ["Look", "look"]

ALIKE = 0.995
"""Correlation of two thumbnails from which on they are near duplicates. Re-encoded as JPEG, an
image keeps 0.999 with itself; of Fashion-MNIST's test images, 2 % find such a training image."""

_SIDE = 16
_MOST_COMPARED = 200_000
_CHUNK = 2048


@dataclass(frozen=True)
class Look:
    """This is what stands in a data set; positions count from 0 in their part.

    Attributes:
        dataset: its name.
        classes: names of the classes.
        train_counts, test_counts: items a class.
        equal: groups of training positions whose items are equal to the last bit.
        in_test: (training position, test position) of equal items, the first test item of each.
        contradictory: training positions of which an equal item has another label.
        near: pairs of near duplicates (part, position, part, position), of which the second is a
            training item; None: not looked for.
        turned: files that EXIF says to turn; they are turned when they are read.
        passed_over: what else lay in the folder.
    """

    dataset: str
    classes: Sequence[str]
    train_counts: Sequence[int]
    test_counts: Sequence[int]
    equal: Sequence[Sequence[int]]
    in_test: Sequence[Sequence[int]]
    contradictory: Sequence[int]
    near: Sequence[Sequence[Any]] | None
    turned: Sequence[str]
    passed_over: Sequence[str]

    def lines(self, train: Collection[int] = (), meta: Collection[int] = ()) -> list[str]:
        """Returns two lines: classes, and items that stand more than once.

        Args:
            train, meta: positions that a training takes, to tell what it has on both sides.
        """
        counts = [
            _span("training", self.train_counts, self.classes),
            _span("test", self.test_counts, self.classes),
        ]
        files = f"; {len(self.turned)} files turned as their EXIF says" if self.turned else ""
        trained, held = set(train), set(meta)
        both = sum(
            len(held.intersection(group)) for group in self.equal if not trained.isdisjoint(group)
        )
        alike = {j for _, _, _, j in self.near or ()}
        alike |= {i for part, i, _, _ in self.near or () if part == "train"}
        repeats = [
            f"{count} {what}"
            for count, what in (
                (sum(len(group) - 1 for group in self.equal), "repeat another one"),
                (len(self.in_test), "stand among the test items too (--dedup leaves them out)"),
                (both, "are for meta-validation in seed 0 and stand in its training items too"),
                (len(self.contradictory), "have an equal one with another label"),
                (len(alike), "have a near duplicate"),
            )
            if count
        ]
        summary = (
            f"of the training items {', '.join(repeats)}" if repeats else "no two items are equal"
        )
        return [
            f"{self.dataset}: items a class: {', '.join(counts)}{files}",
            f"{self.dataset}: {summary}",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON types."""
        return asdict(self)


def look(source: Source, *, near: bool = False) -> Look:
    """Looks at all items of a data set, which reads what does not lie in memory.

    Args:
        source: the data set.
        near: also looks for near duplicates, by the correlation of thumbnails of 16 × 16 gray
            values; it compares each image with each training image.

    Raises:
        ValueError: near duplicates are asked for of features, or of more than 200,000 images.
    """
    if near and not source.holds_images:
        raise ValueError(f"{source.name} holds features; near duplicates are looked for of images")
    total = len(source.train_labels) + len(source.test_labels)
    if near and total > _MOST_COMPARED:
        raise ValueError(
            f"{source.name} has {total} images, and near duplicates are looked for among at most "
            f"{_MOST_COMPARED}; leave --near-duplicates out"
        )
    places: dict[bytes, list[int]] = defaultdict(list)
    for i, item in enumerate(source.hashes("train")):
        places[bytes(item)].append(i)
    tested: dict[bytes, int] = {}
    for i, item in enumerate(source.hashes("test")):
        tested.setdefault(bytes(item), i)
    labels = source.train_labels
    equal = [group for group in places.values() if len(group) > 1]
    in_test = [[i, tested[item]] for item in places if item in tested for i in places[item]]
    contradictory = [i for group in equal if len({*labels[group].tolist()}) > 1 for i in group]
    return Look(
        dataset=source.name,
        classes=list(source.classes),
        train_counts=np.bincount(labels, minlength=source.num_classes).tolist(),
        test_counts=np.bincount(source.test_labels, minlength=source.num_classes).tolist(),
        equal=equal,
        in_test=sorted(in_test),
        contradictory=sorted(contradictory),
        near=_near(source) if near else None,
        turned=list(source.turned),
        passed_over=list(source.passed_over),
    )


def _near(source: Source) -> list[list[Any]]:
    """Returns pairs of images that look alike and are not equal."""
    train = _thumbnails(source, "train")
    pairs: list[list[Any]] = []
    parts: tuple[Part, ...] = ("train", "test")
    for part in parts:
        thumbnails = train if part == "train" else _thumbnails(source, part)
        hashes, trained = source.hashes(part), source.hashes("train")
        for start in range(0, len(thumbnails), _CHUNK):
            alike = torch.nonzero(thumbnails[start : start + _CHUNK] @ train.T >= ALIKE)
            for i, j in (alike + torch.tensor([start, 0])).tolist():
                if (part == "test" or i < j) and bytes(hashes[i]) != bytes(trained[j]):
                    pairs.append([part, i, "train", j])
    return pairs


def _thumbnails(source: Source, part: Part) -> Tensor:
    """Returns gray thumbnails, float32 [N, S·S], of mean 0 and length 1; an even image's is 0."""
    side = min(_SIDE, source.image_size)
    rows = []
    for items in source.all_items(part):
        gray = torch.from_numpy(items).float().mean(1, keepdim=True)
        values = adaptive_avg_pool2d(gray, side).flatten(1)
        values = values - values.mean(1, keepdim=True)
        length = values.norm(dim=1, keepdim=True)
        rows.append(torch.where(length > 1e-3, values / length.clamp(min=1e-3), 0.0))
    return torch.cat(rows)


def _span(part: str, counts: Sequence[int], classes: Sequence[str]) -> str:
    """Returns the smallest and largest class of a part."""
    low, high = int(np.argmin(counts)), int(np.argmax(counts))
    if counts[low] == counts[high]:
        return f"{part} {counts[low]} each"
    return f"{part} {counts[low]} ({classes[low]}) to {counts[high]} ({classes[high]})"

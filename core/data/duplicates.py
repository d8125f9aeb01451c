"""This module finds items of a data set that are equal to the last bit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from core.data.sources import Source

__all__ = ["Duplicates", "find_duplicates"]


@dataclass(frozen=True)
class Duplicates:
    """These items stand more than once in a data set.

    Attributes:
        within_train: training items that an earlier training item equals.
        in_test: training items that a test item equals.
        contradictory: training items of which an equal one has another label.
    """

    within_train: int
    in_test: int
    contradictory: int

    @property
    def description(self) -> str:
        """Returns a line on what was found; empty where nothing was."""
        parts = (
            (self.within_train, "repeat another one"),
            (self.in_test, "stand among the test items too"),
            (self.contradictory, "have an equal one with another label"),
        )
        found = [f"{count} {what}" for count, what in parts if count]
        return f"of the training items {', '.join(found)}" if found else ""


def find_duplicates(source: Source) -> Duplicates | None:
    """Compares all items by a hash of their values; None where they are not held in memory."""
    train, test = source.train_data, source.test_data
    if not (isinstance(train, np.ndarray) and isinstance(test, np.ndarray)):
        return None
    tested = set(_hashes(test))
    labels: dict[bytes, set[int]] = {}
    hashes = _hashes(train)
    for item, label in zip(hashes, source.train_labels.tolist(), strict=True):
        labels.setdefault(item, set()).add(label)
    return Duplicates(
        within_train=len(hashes) - len(labels),
        in_test=sum(item in tested for item in hashes),
        contradictory=sum(len(labels[item]) > 1 for item in hashes),
    )


def _hashes(items: np.ndarray) -> list[bytes]:
    flat = np.ascontiguousarray(items)
    return [hashlib.blake2b(item.data, digest_size=16).digest() for item in flat]

"""Equal items are counted within training, across to test, and under several labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from core.data import source_from_arrays
from core.data.duplicates import Duplicates, find_duplicates


@pytest.mark.parametrize("features", [False, True])
def test_equal_items_are_counted(features: bool) -> None:
    train = np.zeros((6, 1, 2, 2), np.uint8)
    train[:, 0, 0, 0] = [1, 2, 2, 3, 3, 4]
    test = np.zeros((2, 1, 2, 2), np.uint8)
    test[:, 0, 0, 0] = [3, 9]
    source = source_from_arrays("mine", train, [0, 1, 1, 0, 1, 0], test, [0, 1])
    if features:
        source = replace(
            source, train_data=train.astype(np.float32), test_data=test.astype(np.float32)
        )
    found = find_duplicates(source)
    assert found == Duplicates(within_train=2, in_test=2, contradictory=2)
    assert found.description == (
        "of the training items 2 repeat another one, 2 stand among the test items too, 2 have an "
        "equal one with another label"
    )


def test_nothing_is_said_of_different_items() -> None:
    items = np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1)
    source = source_from_arrays("mine", items[:4], [0, 1, 0, 1], items[4:], [0, 1, 0, 1])
    found = find_duplicates(source)
    assert found == Duplicates(0, 0, 0)
    assert found.description == ""

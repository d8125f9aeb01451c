from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from hpo.analyses.labels.detection import detect, precision_at, precision_curve


def test_by_hand() -> None:
    """From the lowest score up: wrong, right, wrong, right, right. Of the 6 pairs of a wrong and a
    right label the wrong one is lower in 3 + 2."""
    detection = detect([0.5, -2.0, 0.1, 3.0, 0.4], [False, True, False, False, True])
    assert (detection.total, detection.wrong) == (5, 2)
    assert detection.auc == pytest.approx(5 / 6)
    assert detection.precision_at_wrong == 0.5
    assert math.isnan(detection.precision_at_few)


def test_precision_at_each_k_by_hand() -> None:
    scores, wrong = [4, 1, 3, 2], [True, True, False, False]
    assert precision_curve(scores, wrong).tolist() == [1, 1 / 2, 1 / 3, 1 / 2]
    assert [precision_at(scores, wrong, k) for k in (1, 2, 3)] == [1, 1 / 2, 1 / 3]
    for k in (-1, 0, 4, 5):
        assert math.isnan(precision_at(scores, wrong, k))


def test_a_hundred_labels() -> None:
    """300 images, the first 120 wrong. The lowest 100 are 80 wrong and 20 right ones."""
    order = [*range(80), *range(120, 140), *range(80, 120), *range(140, 300)]
    scores = np.empty(300)
    scores[order] = np.arange(300)
    detection = detect(scores, np.arange(300) < 120)
    assert detection.precision_at_few == 0.8
    assert detection.precision_at_wrong == pytest.approx(100 / 120)
    # Each of the 40 later wrong ones has 20 right ones before it.
    assert detection.auc == pytest.approx(1 - 40 * 20 / (120 * 180))


def test_against_every_pair_and_every_order() -> None:
    draw = random.Random(0)
    for _ in range(20):
        scores = [draw.randrange(4) for _ in range(6)]
        wrong = [draw.random() < 0.5 for _ in range(6)]
        if len(set(wrong)) < 2:
            continue
        pairs = [
            1.0 if low < high else 0.5 if low == high else 0.0
            for (low, bad), (high, good) in itertools.product(
                zip(scores, wrong, strict=True), repeat=2
            )
            if bad and not good
        ]
        k = sum(wrong)
        orders = [
            sum(wrong[i] for i in order[:k]) / k
            for order in itertools.permutations(range(6))
            if all(scores[a] <= scores[b] for a, b in itertools.pairwise(order))
        ]
        detection = detect(scores, wrong)
        assert detection.auc == pytest.approx(np.mean(pairs))
        assert detection.precision_at_wrong == pytest.approx(np.mean(orders))


@pytest.mark.parametrize("wrong", [[False] * 3, [True] * 3])
def test_with_one_kind_alone_there_is_nothing_to_find(wrong: list[bool]) -> None:
    detection = detect([1.0, 2.0, 3.0], wrong)
    assert math.isnan(detection.auc)
    assert math.isnan(detection.precision_at_wrong)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"\[N\] both, got \[2\] and \[3\]"):
        detect([1.0, 2.0], [True, False, True])
    with pytest.raises(ValueError, match="NaN, got one at index 1"):
        precision_at([1.0, math.nan, 2.0], [True, False, True], 1)

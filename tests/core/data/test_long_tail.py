from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from core.data import long_tail

rng = np.random.default_rng(0)


def labels_of(*sizes: int) -> np.ndarray:
    return rng.permutation(np.repeat(np.arange(len(sizes)), sizes))


def sizes_kept(labels: np.ndarray, classes: int, ratio: float) -> list[int]:
    remaining = long_tail(labels, classes, ratio=ratio, seed=0)
    return np.bincount(labels[remaining.numpy()], minlength=classes).tolist()


@pytest.mark.parametrize(
    ("classes", "each", "ratio", "total"),
    [
        (10, 5000, 10, 20431), (10, 5000, 50, 13996), (10, 5000, 100, 12406),
        (100, 500, 10, 19573), (100, 500, 50, 12608), (100, 500, 100, 10847),
    ],
)  # fmt: skip
def test_as_many_images_as_the_published_long_tailed_cifar(
    classes: int, each: int, ratio: float, total: int
) -> None:
    sizes = sizes_kept(labels_of(*[each] * classes), classes, ratio)
    assert sum(sizes) == total
    assert (sizes[0], sizes[-1]) == (each, each // ratio)
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("sizes", "ratio", "kept"),
    [
        ([512] * 10, 512, [512, 256, 128, 64, 32, 16, 8, 4, 2, 1]),  # 512^(1/9) in floats is not 2
        ([100] * 3, 50, [100, 14, 2]),  # 100 / sqrt(50) = 14.1
        ([10] * 3, 10_000, [10, 1, 1]),  # at least one
        ([1] * 4, 100, [1] * 4),
        ([100, 100], 4, [100, 25]),
        # Of other than balanced classes a class keeps what it has: 400, 100 and 25 are asked for.
        ([40, 400, 400], 16, [40, 100, 25]),
        ([400, 60, 5], 16, [400, 60, 5]),
        ([30, 0, 30], 9, [30, 0, 3]),
        ([7, 9, 8], 1, [7, 9, 8]),
    ],
)
def test_sizes_by_hand(sizes: list[int], ratio: float, kept: list[int]) -> None:
    assert sizes_kept(labels_of(*sizes), len(sizes), ratio) == kept


def test_positions_ascend_without_repetition() -> None:
    remaining = long_tail(labels_of(40, 40, 40), 3, ratio=5, seed=0)
    assert remaining.dtype == torch.int64
    assert remaining.tolist() == sorted(set(remaining.tolist()))
    everything = long_tail(labels_of(40, 50), 2, ratio=1, seed=0)
    assert everything.tolist() == list(range(90))


def test_a_longer_tail_keeps_a_part_of_a_shorter_one() -> None:
    labels = labels_of(*[60] * 5)
    nested = [set(long_tail(labels, 5, ratio=r, seed=2).tolist()) for r in (2, 10, 50)]
    assert nested[0] > nested[1] > nested[2]


def test_every_image_is_as_likely_to_be_kept() -> None:
    labels = labels_of(50, 50)
    seeds = 300
    counts = np.zeros(100)
    for seed in range(seeds):
        counts[long_tail(labels, 2, ratio=2, seed=seed).numpy()] += 1
    assert (counts[labels == 0] == seeds).all()
    # Binomial(300, 1/2): standard deviation 8.7. Fifty images stay within five of those.
    assert np.abs(counts[labels == 1] - seeds / 2).max() < 5 * 8.7


def test_seeds_reproduce_and_differ_and_leave_the_global_stream_alone() -> None:
    before, labels = torch.get_rng_state(), labels_of(60, 60)
    labels.flags.writeable = False
    first = long_tail(labels, 2, ratio=6, seed=0)
    assert torch.equal(long_tail(torch.tensor(labels), 2, ratio=6, seed=0), first)
    assert not torch.equal(long_tail(labels, 2, ratio=6, seed=1), first)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 0.5}, "ratio must be finite and at least 1, got 0.5"),
        ({"ratio": float("nan")}, "ratio must be finite and at least 1, got nan"),
        ({"ratio": float("inf")}, "ratio must be finite and at least 1, got inf"),
        ({"num_classes": 1}, "needs 2 classes or more, got 1"),
        ({"num_classes": 2}, r"label 2 at index \d+ lies outside 0\.\.1"),
    ],
)
def test_values_out_of_range(arguments: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"num_classes": 3, "ratio": 5, "seed": 0, **arguments}
    with pytest.raises(ValueError, match=message):
        long_tail(labels_of(4, 4, 4), **values)

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from core.data import NoiseKind, flip_labels

SIZES = [40, 50, 60, 70]
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), SIZES))
KINDS: list[NoiseKind] = ["symmetric", "pair"]
both_kinds = pytest.mark.parametrize("kind", KINDS)


def confusion(noisy: torch.Tensor, labels: np.ndarray = LABELS, classes: int = 4) -> list[Any]:
    """Returns images by true label (rows) and given label (columns)."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, noisy.numpy()), 1)
    return counts.tolist()


def flips(fraction: float, kind: NoiseKind = "symmetric", seed: int = 0) -> dict[int, int]:
    """Wrong label by position."""
    noisy = flip_labels(LABELS, 4, fraction=fraction, kind=kind, seed=seed).tolist()
    return {i: new for i, (new, old) in enumerate(zip(noisy, LABELS, strict=True)) if new != old}


@pytest.mark.parametrize(
    ("fraction", "wrong"),
    [
        (0.0, [0, 0, 0, 0]),
        (0.2, [8, 10, 12, 14]),
        (0.25, [10, 12, 15, 18]),  # of 12.5 and 17.5 the even neighbor
        (0.33, [13, 16, 20, 23]),  # of 13.2, 16.5, 19.8 and 23.1
        (0.6, [24, 30, 36, 42]),
        (1.0, SIZES),
    ],
)
def test_exactly_that_part_of_each_class_is_wrong(fraction: float, wrong: list[int]) -> None:
    pairs = confusion(flip_labels(LABELS, 4, fraction=fraction, kind="pair", seed=3))
    right = [size - count for size, count in zip(SIZES, wrong, strict=True)]
    assert pairs == [
        [right[0], wrong[0], 0, 0],
        [0, right[1], wrong[1], 0],
        [0, 0, right[2], wrong[2]],
        [wrong[3], 0, 0, right[3]],
    ]
    symmetric = np.array(confusion(flip_labels(LABELS, 4, fraction=fraction, seed=3)))
    assert symmetric.diagonal().tolist() == right
    assert symmetric.sum(axis=1).tolist() == SIZES
    if min(wrong) >= 8:
        assert (symmetric > 0).sum() == (16 if min(right) else 12)


def test_symmetric_flips_are_uniform_among_the_other_classes() -> None:
    labels = np.repeat(np.arange(4), 10_000)
    counts = np.array(confusion(flip_labels(labels, 4, fraction=0.3, seed=1), labels))
    assert counts.diagonal().tolist() == [7000] * 4
    others = counts[~np.eye(4, dtype=bool)]
    # Binomial(3000, 1/3): standard deviation 25.8. Twelve of them stay within four of those.
    assert np.abs(others - 1000).max() < 4 * 25.8
    assert np.abs(others - 1000).max() > 1  # drawn, not dealt out


@both_kinds
def test_every_image_is_as_likely_to_be_flipped(kind: NoiseKind) -> None:
    seeds = 300
    counts = np.zeros(len(LABELS))
    for seed in range(seeds):
        counts[list(flips(0.4, kind, seed))] += 1
    # Binomial(300, 0.4): standard deviation 8.5. 220 images stay within five of those.
    assert np.abs(counts - 0.4 * seeds).max() < 5 * 8.5


def test_two_classes_swap() -> None:
    labels = np.arange(20) % 2
    for kind in KINDS:
        noisy = flip_labels(labels, 2, fraction=0.3, kind=kind, seed=0)
        assert confusion(noisy, labels, 2) == [[7, 3], [3, 7]]


def test_a_class_without_images_and_one_with_a_single_one() -> None:
    labels = np.array([0, 2, 2, 2, 2])
    noisy = flip_labels(labels, 3, fraction=0.75, kind="pair", seed=0)
    assert confusion(noisy, labels, 3) == [[0, 1, 0], [0, 0, 0], [3, 0, 1]]
    assert len(flip_labels(labels[:0], 3, fraction=0.5, seed=0)) == 0


def test_seeds_reproduce_and_differ_and_leave_the_global_stream_and_the_labels_alone() -> None:
    before, given = torch.get_rng_state(), torch.from_numpy(LABELS.copy())
    frozen = LABELS.copy()
    frozen.flags.writeable = False
    first = flip_labels(frozen, 4, fraction=0.4, seed=0)
    assert torch.equal(flip_labels(given, 4, fraction=0.4, seed=0), first)
    assert not torch.equal(flip_labels(given, 4, fraction=0.4, seed=1), first)
    assert first.dtype == torch.int64
    assert given.tolist() == LABELS.tolist()
    assert torch.equal(torch.get_rng_state(), before)


def test_less_noise_is_a_part_of_more_and_both_kinds_flip_the_same_images() -> None:
    nested = [flips(fraction) for fraction in (0.2, 0.4, 0.6)]
    for less, more in itertools.pairwise(nested):
        assert less.items() < more.items()
    assert flips(0.4, "pair").keys() == nested[1].keys()
    assert flips(0.4, "pair") != nested[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fraction": -0.1}, r"fraction must lie in \[0, 1\], got -0.1"),
        ({"fraction": 40}, r"fraction must lie in \[0, 1\], got 40"),
        ({"fraction": float("nan")}, r"fraction must lie in \[0, 1\], got nan"),
        ({"kind": "asymmetric"}, "kind must be symmetric or pair, got 'asymmetric'"),
        ({"num_classes": 3}, r"label 3 at index \d+ lies outside 0\.\.2"),
        ({"num_classes": 1}, "wrong among 2 classes or more, got 1"),
    ],
)
def test_values_out_of_range(arguments: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"num_classes": 4, "fraction": 0.4, "seed": 0, **arguments}
    with pytest.raises(ValueError, match=message):
        flip_labels(LABELS, **values)

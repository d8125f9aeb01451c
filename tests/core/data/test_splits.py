from __future__ import annotations

import numpy as np
import pytest
import torch

from core.data import make_splits

rng = np.random.default_rng(0)
LABELS = rng.permutation(np.repeat(np.arange(4), [40, 50, 60, 70]))


def counts(indices: torch.Tensor) -> list[int]:
    return np.bincount(LABELS[indices.numpy()], minlength=4).tolist()


def test_meta_validation_is_balanced_and_disjoint_from_the_rest() -> None:
    splits = make_splits(LABELS, 4, meta_size=40, seed=0)
    assert counts(splits.meta_validation) == [10] * 4
    assert counts(splits.train) == [30, 40, 50, 60]
    both = torch.cat([splits.train, splits.meta_validation])
    assert sorted(both.tolist()) == list(range(220))
    assert both.dtype == torch.int64
    assert splits.labelled is None
    assert splits.unlabelled is None


def test_training_subset_and_labelled_part_are_balanced() -> None:
    splits = make_splits(LABELS, 4, meta_size=20, seed=1, train_size=80, labelled=12)
    assert splits.labelled is not None
    assert splits.unlabelled is not None
    assert counts(splits.train) == [20] * 4
    assert counts(splits.labelled) == [3] * 4
    assert not set(splits.train.tolist()) & set(splits.meta_validation.tolist())
    parts = splits.labelled.tolist() + splits.unlabelled.tolist()
    assert sorted(parts) == splits.train.tolist()
    assert len(set(parts)) == 80


def test_without_train_size_all_that_is_left_is_labelled_or_not() -> None:
    splits = make_splits(LABELS, 4, meta_size=20, seed=1, labelled=40)
    assert splits.labelled is not None
    assert splits.unlabelled is not None
    assert counts(splits.unlabelled) == [25, 35, 45, 55]


def test_a_size_that_does_not_divide_differs_by_one_at_most() -> None:
    splits = make_splits(LABELS, 4, meta_size=10, seed=3, train_size=5)
    assert sorted(counts(splits.meta_validation)) == [2, 2, 3, 3]
    assert sorted(counts(splits.train)) == [1, 1, 1, 2]


def test_seeds_reproduce_and_differ_and_leave_the_global_stream_alone() -> None:
    before = torch.get_rng_state()
    first = make_splits(LABELS, 4, meta_size=40, seed=0, train_size=40)
    again = make_splits(torch.from_numpy(LABELS), 4, meta_size=40, seed=0, train_size=40)
    other = make_splits(LABELS, 4, meta_size=40, seed=1, train_size=40)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.train, again.train)
    assert torch.equal(first.meta_validation, again.meta_validation)
    assert not torch.equal(first.train, other.train)
    assert not torch.equal(first.meta_validation, other.meta_validation)


def test_meta_sets_of_one_seed_are_nested() -> None:
    small = make_splits(LABELS, 4, meta_size=8, seed=5).meta_validation
    large = make_splits(LABELS, 4, meta_size=80, seed=5).meta_validation
    assert set(small.tolist()) < set(large.tolist())


def test_every_image_can_be_drawn() -> None:
    drawn = set()
    for seed in range(60):
        drawn |= set(make_splits(LABELS, 4, meta_size=40, seed=seed).meta_validation.tolist())
    assert drawn == set(range(220))


def test_no_meta_validation_is_allowed() -> None:
    splits = make_splits(LABELS, 4, meta_size=0, seed=0)
    assert len(splits.meta_validation) == 0
    assert splits.train.tolist() == list(range(220))


def test_read_only_labels_are_taken_without_a_warning() -> None:
    labels = LABELS.copy()
    labels.flags.writeable = False
    make_splits(labels, 4, meta_size=4, seed=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"meta_size": 200}, r"class 0 \(ant\) has 40 images left, needs 50 for meta_size=200"),
        (
            {"meta_size": 80, "train_size": 100},
            r"class 0 \(ant\) has 20 images left, needs 25 for train_size=100",
        ),
        (
            {"meta_size": 4, "train_size": 8, "labelled": 12},
            r"class 0 \(ant\) has 2 images left, needs 3 for labelled=12",
        ),
        ({"meta_size": -1}, "meta_size must be >= 0, got -1"),
        ({"meta_size": 4, "train_size": 0}, "train_size must be >= 1, got 0"),
        ({"meta_size": 4, "labelled": 0}, "labelled must be >= 1, got 0"),
    ],
)
def test_sizes_that_do_not_fit(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_splits(LABELS, 4, seed=0, classes=("ant", "bee", "cat", "dog"), **arguments)


def test_labels_out_of_range_and_nothing_left_to_train() -> None:
    with pytest.raises(ValueError, match=r"label 4 at index 1 lies outside 0\.\.3"):
        make_splits(np.array([0, 4]), 4, meta_size=0, seed=0)
    with pytest.raises(ValueError, match="meta_size=4 leaves no training image of 4"):
        make_splits(np.array([0, 1, 0, 1]), 2, meta_size=4, seed=0)

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

from core.policies import LearnedConfig, NoMix
from core.semi_supervised.config import SemiSupervisedConfig
from core.training.config import TrainingConfig
from core.training.few_labels_data import prepare_semi_data
from core.training.prepared_data import prepare_data
from tests.support.counted_images import numbered, read

SEMI = SemiSupervisedConfig("supervised", labelled=12)
CONFIG = TrainingConfig(
    "numbered", "cnn", NoMix(), train_size=30, meta_size=12, flip=False, semi=SEMI
)

KINDS: dict[str, dict[str, Any]] = {
    "pi-model": {"weight": 20.0},
    "mean-teacher": {"ema": 0.9},
    "vat": {"entropy": 0.1},
    "pseudo-label": {"threshold": 0.5},
    "mixmatch": {"ema": 0.9, "augmentations": 3},
}


def parts(config: TrainingConfig) -> tuple[dict[int, int], ...]:
    data = prepare_semi_data(config, numbered(), "cpu")
    return read(data.labelled), read(data.unlabelled), read(data.meta), read(data.test)


def test_labelled_images_are_balanced_and_apart_from_all_others() -> None:
    labelled, unlabelled, meta, test = parts(CONFIG)
    assert Counter(labelled.values()) == {0: 4, 1: 4, 2: 4}
    assert Counter(meta.values()) == {0: 4, 1: 4, 2: 4}
    assert all(label == number % 3 for number, label in (labelled | meta).items())
    assert (len(labelled), len(unlabelled), len(meta), len(test)) == (12, 18, 12, 20)
    assert len(labelled | unlabelled | meta | test) == 12 + 18 + 12 + 20
    assert set(test) == set(range(100, 120))
    assert set(unlabelled.values()) == {0}


def test_true_labels_are_those_of_the_unlabelled_images() -> None:
    data = prepare_semi_data(CONFIG, numbered(), "cpu")
    assert data.true_labels.tolist() == [number % 3 for number in read(data.unlabelled)]


@pytest.mark.parametrize("labelled", [13, 14, 2])
def test_classes_differ_by_one_where_the_number_does_not_divide(labelled: int) -> None:
    drawn, *_ = parts(replace(CONFIG, semi=replace(SEMI, labelled=labelled)))
    counts = [Counter(drawn.values())[label] for label in range(3)]
    assert sum(counts) == labelled
    assert max(counts) - min(counts) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_alone_decides_the_parts(kind: Any) -> None:
    first = parts(CONFIG)
    torch.rand(3)
    semi = SemiSupervisedConfig(kind, labelled=12, unlabelled_batch=5, **KINDS[kind])
    policy = LearnedConfig() if kind in ("pseudo-label", "mixmatch") else NoMix()
    other = replace(CONFIG, semi=semi, policy=policy, lr=1.0, batch_size=3, model="wrn_28_2")
    assert parts(other) == first
    for one, two in zip(parts(replace(CONFIG, seed=1)), first, strict=True):
        assert (one == two) == (set(two) == set(range(100, 120)))


def test_more_labels_are_added_to_fewer() -> None:
    """So that a curve over the number of labels compares like with like."""
    few, _, meta, _ = parts(replace(CONFIG, semi=replace(SEMI, labelled=6)))
    many, _, same, _ = parts(CONFIG)
    assert few.items() < many.items()
    assert same == meta


def test_meta_validation_and_test_are_those_of_a_training_with_all_labels() -> None:
    everything = prepare_data(replace(CONFIG, semi=None), numbered(), "cpu")
    labelled, unlabelled, meta, test = parts(CONFIG)
    assert meta == read(everything.meta)
    assert test == read(everything.test)
    assert set(labelled | unlabelled) == set(read(everything.train))


def test_all_images_that_are_left_train() -> None:
    _, unlabelled, meta, _ = parts(replace(CONFIG, train_size=None))
    assert len(unlabelled) == 60 - 12 - 12
    assert not unlabelled.keys() & meta.keys()


def test_meta_validation_images_that_train_are_labelled_ones() -> None:
    labelled, unlabelled, meta, _ = parts(CONFIG)
    added = parts(replace(CONFIG, meta_in_training=True))
    assert list(added[0].items()) == [*labelled.items(), *meta.items()]
    assert added[1:3] == (unlabelled, meta)


def test_normalisation_is_that_of_labelled_and_unlabelled_images() -> None:
    labelled, unlabelled, _, _ = parts(CONFIG)
    transform = prepare_semi_data(CONFIG, numbered(), "cpu").transform
    pixels = numbered().train_data[[*labelled, *unlabelled]] / 255  # type: ignore[index]
    assert transform.mean == pytest.approx((pixels.mean(),))
    assert transform.std == pytest.approx((pixels.std(),))


def test_errors_name_the_number_and_the_way_out() -> None:
    for labelled, message in (
        (30, "labelled=30 leaves no unlabelled image; choose fewer labelled images, or a larger"),
        (31, "has 10 images left, needs 11 for labelled=31 over 3 classes; choose a smaller"),
    ):
        with pytest.raises(ValueError, match=message):
            parts(replace(CONFIG, semi=replace(SEMI, labelled=labelled)))
    with pytest.raises(ValueError, match="images of 4 pixels, the configuration says image_size=8"):
        parts(replace(CONFIG, image_size=8))

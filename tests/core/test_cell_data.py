from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.cell_data import prepare_data
from core.config import PolicyConfig, TrainingConfig
from core.data import ImageSet, Source, source_from_arrays

CONFIG = TrainingConfig(
    "numbered", "cnn", PolicyConfig("none"), train_size=30, meta_size=12, flip=False
)


def numbered() -> Source:
    """60 training and 20 test images of 3 classes; pixel (0, 0) is the image's number, test images
    are counted from 100."""
    images = np.full((80, 4, 4), 7, np.uint8)
    images[:, 0, 0] = [*range(60), *range(100, 120)]
    labels = np.arange(80) % 3
    return source_from_arrays("numbered", images[:60], labels[:60], images[60:], labels[60:])


def read(images: ImageSet) -> dict[int, int]:
    """Number of each image to its label; every image once."""
    pixels, labels = next(images.batches([torch.arange(len(images))]))
    found = dict(zip(pixels[:, 0, 0, 0].tolist(), labels.tolist(), strict=True))
    assert len(found) == len(images)
    return found


def test_disjoint_balanced_parts_with_their_labels() -> None:
    data = prepare_data(CONFIG, numbered(), "cpu")
    train, meta, test = map(read, (data.train, data.meta, data.test))
    assert not train.keys() & meta.keys()
    assert set(test) == set(range(100, 120))
    assert Counter(train.values()) == {0: 10, 1: 10, 2: 10}
    assert Counter(meta.values()) == {0: 4, 1: 4, 2: 4}
    assert all(label == number % 3 for number, label in (train | meta).items())
    assert len(prepare_data(replace(CONFIG, train_size=None), numbered(), "cpu").train) == 48


def test_meta_in_training_adds_exactly_those_images() -> None:
    without = prepare_data(CONFIG, numbered(), "cpu")
    added = prepare_data(replace(CONFIG, meta_in_training=True), numbered(), "cpu")
    assert read(added.meta) == read(without.meta)
    assert read(added.train) == read(without.train) | read(without.meta)
    assert len(added.train) == len(without.train) + 12


def test_the_seed_alone_decides_the_parts() -> None:
    beta = replace(CONFIG, policy=PolicyConfig("beta", alpha=1.0), lr=1.0, batch_size=3)
    first = prepare_data(CONFIG, numbered(), "cpu")
    torch.rand(3)
    assert read(prepare_data(beta, numbered(), "cpu").train) == read(first.train)
    other = prepare_data(replace(CONFIG, seed=1), numbered(), "cpu")
    assert read(other.train) != read(first.train)


def test_normalisation_is_that_of_the_training_images() -> None:
    data = prepare_data(replace(CONFIG, flip=True, translate=2), numbered(), "cpu")
    pixels = numbered().train_data[list(read(data.train))] / 255  # type: ignore[index]
    assert data.transform.mean == pytest.approx((pixels.mean(),))
    assert data.transform.std == pytest.approx((pixels.std(),))
    assert (data.transform.flip, data.transform.translate) == (True, 2)


def test_a_source_of_another_size_is_refused() -> None:
    assert len(prepare_data(replace(CONFIG, image_size=4), numbered(), "cpu").train) == 30
    with pytest.raises(ValueError, match=r"'numbered' has images of 4 pixels.*image_size=8; load"):
        prepare_data(replace(CONFIG, image_size=8), numbered(), "cpu")

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from core.data import (
    Source,
    StreamedImages,
    Transform,
    flip_labels,
    load_source,
    long_tail,
    make_splits,
    source_from_arrays,
    with_fingerprint,
)
from core.data.masks import pack_mask, unpack_mask
from core.policies import LearnedConfig, NoMix
from core.training.config import TrainingConfig
from core.training.prepared_data import draw_labels, prepare_data
from tests.support.counted_images import numbered, read

CONFIG = TrainingConfig("numbered", "cnn", NoMix(), train_size=30, meta_size=12, flip=False)


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


def test_normalisation_is_that_of_the_training_images() -> None:
    data = prepare_data(replace(CONFIG, flip=True, translate=2), numbered(), "cpu")
    pixels = numbered().train_data[list(read(data.train))] / 255  # type: ignore[index]
    assert data.transform.mean == pytest.approx((pixels.mean(),))
    assert data.transform.std == pytest.approx((pixels.std(),))
    assert (data.transform.flip, data.transform.translate) == (True, 2)


def test_whitening_is_that_of_the_training_images() -> None:
    r = np.random.default_rng(0)
    images, labels = r.integers(0, 256, (80, 4, 4), dtype=np.uint8), np.arange(80) % 3
    source = source_from_arrays("n", images[:60], labels[:60], images[60:], labels[60:])
    data = prepare_data(replace(CONFIG, normalisation="gcn-zca"), source, "cpu")
    assert data.transform.whitening is not None
    (x, _), *_ = data.train.batches([torch.arange(30)])
    out = data.transform.evaluate(x).flatten(1)
    assert float(out.mean(0).abs().max()) < 1e-4
    assert (
        float(data.transform.evaluate(torch.from_numpy(images[:, None])).mean(0).abs().max()) > 0.01
    )


def test_the_transform_is_the_configurations() -> None:
    config = replace(CONFIG, translate=2, normalisation="unit", padding="reflect", noise=0.15)
    transform = prepare_data(config, numbered(), "cpu").transform
    assert transform == Transform((0.5,), (0.5,), False, 2, "reflect", 0.15)


def test_a_source_of_another_size_is_refused() -> None:
    assert len(prepare_data(replace(CONFIG, image_size=4), numbered(), "cpu").train) == 30
    with pytest.raises(ValueError, match=r"'numbered' has images of 4 pixels.*image_size=8; load"):
        prepare_data(replace(CONFIG, image_size=8), numbered(), "cpu")


# ------------------------------------------------------------------- wrong labels and long tails

NOISE: list[dict[str, Any]] = [
    {"label_noise": 0.4, "label_noise_kind": "pair"},
    {"label_noise": 0.4},
    {"label_noise": 0.4, "imbalance": 5.0},
    {"label_noise": 1.0, "imbalance": 2.0, "meta_in_training": True},
]
every_noise = pytest.mark.parametrize("changes", NOISE, ids=str)


def wrong(found: dict[int, int]) -> Counter[int]:
    """Returns images whose label is not their own, by their own."""
    return Counter(number % 3 for number, label in found.items() if label != number % 3)


def test_labels_are_wrong_in_training_and_nowhere_else() -> None:
    clean = prepare_data(CONFIG, numbered(), "cpu")
    source = numbered()
    for changes in NOISE[:2]:
        data = prepare_data(replace(CONFIG, **changes), source, "cpu")
        train = read(data.train)
        assert train.keys() == read(clean.train).keys()
        assert wrong(train) == {0: 4, 1: 4, 2: 4}
        assert read(data.meta) == read(clean.meta)
        assert read(data.test) == read(clean.test)
        assert not wrong(read(data.meta))
    assert source.train_labels.tolist() == numbered().train_labels.tolist()


def test_pair_flips_go_to_the_next_class() -> None:
    data = prepare_data(replace(CONFIG, **NOISE[0]), numbered(), "cpu")
    turned = {n: label for n, label in read(data.train).items() if label != n % 3}
    assert all(label == (number + 1) % 3 for number, label in turned.items())
    symmetric = read(prepare_data(replace(CONFIG, **NOISE[1]), numbered(), "cpu").train)
    steps = Counter((label - number) % 3 for number, label in symmetric.items())
    assert steps.keys() == {0, 1, 2}


def test_images_that_meta_in_training_adds_keep_their_labels() -> None:
    everything = replace(CONFIG, label_noise=1.0)
    without = prepare_data(everything, numbered(), "cpu")
    added = prepare_data(replace(everything, meta_in_training=True), numbered(), "cpu")
    assert wrong(read(without.train)) == {0: 10, 1: 10, 2: 10}
    assert read(added.train) == read(without.train) | read(without.meta)
    assert not wrong(read(added.meta))
    drawn = draw_labels(replace(everything, meta_in_training=True), numbered())
    assert (drawn.given != drawn.true).tolist() == [True] * 30 + [False] * 12


@every_noise
def test_which_labels_are_wrong_is_told(changes: dict[str, Any]) -> None:
    """Without reading an image."""
    config, source = replace(CONFIG, **changes), numbered()
    data = prepare_data(config, source, "cpu")
    pixels, labels = next(data.train.batches([torch.arange(len(data.train))]))
    positions = pixels[:, 0, 0, 0].long()
    assert isinstance(source.train_data, np.ndarray)
    drawn = draw_labels(config, replace(source, train_data=source.train_data[:0]))
    assert torch.equal(drawn.indices, positions)
    assert torch.equal(drawn.given, labels)
    assert torch.equal(drawn.true, positions % 3)
    assert bool((drawn.given != drawn.true).any())
    clean = draw_labels(CONFIG, numbered())
    assert torch.equal(clean.given, clean.true)


@pytest.mark.parametrize("seed", range(4))
def test_the_tail_is_cut_before_labels_are_made_wrong(seed: int) -> None:
    config = replace(CONFIG, seed=seed)
    balanced = prepare_data(config, numbered(), "cpu")
    tail = prepare_data(replace(config, imbalance=5.0), numbered(), "cpu")
    remaining = read(tail.train)
    assert Counter(remaining.values()) == {0: 10, 1: 4, 2: 2}  # 10, 10 / sqrt(5), 10 / 5
    assert remaining.items() <= read(balanced.train).items()
    assert read(tail.meta) == read(balanced.meta)
    assert read(tail.test) == read(balanced.test)
    noisy = prepare_data(replace(config, imbalance=5.0, label_noise=0.5), numbered(), "cpu")
    assert read(noisy.train).keys() == remaining.keys()
    assert wrong(read(noisy.train)) == {0: 5, 1: 2, 2: 1}
    with_meta = replace(config, imbalance=5.0, meta_in_training=True)
    added = read(prepare_data(with_meta, numbered(), "cpu").train)
    assert added == remaining | read(tail.meta)


@pytest.mark.parametrize("seed", [0, 7])
def test_the_seed_is_that_of_every_part(seed: int) -> None:
    config = replace(CONFIG, **NOISE[2], seed=seed)
    data, source = prepare_data(config, numbered(), "cpu"), numbered()
    train = make_splits(source.train_labels, 3, meta_size=12, train_size=30, seed=seed).train
    train = train[long_tail(train % 3, 3, ratio=5.0, seed=seed)]
    assert list(read(data.train)) == train.tolist()
    noisy = flip_labels(train % 3, 3, fraction=0.4, seed=seed)
    assert data.train.labels.tolist() == noisy.tolist()


def test_normalisation_follows_the_tail_and_not_the_labels() -> None:
    tail = prepare_data(replace(CONFIG, imbalance=5.0), numbered(), "cpu")
    pixels = numbered().train_data[list(read(tail.train))] / 255  # type: ignore[index]
    assert tail.transform.mean == pytest.approx((pixels.mean(),))
    assert prepare_data(replace(CONFIG, **NOISE[2]), numbered(), "cpu").transform == tail.transform


# ------------------------------------------------------------------------------------------ folds


@pytest.mark.parametrize("folds", [2, 3, 7])
@pytest.mark.parametrize("changes", [{}, NOISE[1], NOISE[2]], ids=str)
def test_folds_part_the_training_images(folds: int, changes: dict[str, Any]) -> None:
    whole = prepare_data(replace(CONFIG, **changes), numbered(), "cpu")
    every = read(whole.train)
    given = Counter(every.values())
    seen: list[int] = []
    for fold in range(folds):
        config = replace(CONFIG, **changes, folds=folds, fold=fold)
        data = prepare_data(config, numbered(), "cpu")
        held_out = read(data.held_out)
        train = read(data.train)
        # Trained on are the others, under the labels that they have without folds.
        assert train == {n: label for n, label in every.items() if n not in held_out}
        assert read(data.meta) == read(whole.meta)
        labels = draw_labels(config, numbered())
        assert labels.held_out.tolist() == sorted(held_out) == list(held_out)
        assert labels.indices.tolist() == list(train)
        assert len(every) // folds <= len(held_out) <= -(-len(every) // folds)
        here = Counter(every[number] for number in held_out)
        assert all(here[c] in (given[c] // folds, -(-given[c] // folds)) for c in given)
        seen += held_out
    assert sorted(seen) == sorted(every)


def test_without_folds_nothing_is_held_out() -> None:
    assert len(prepare_data(CONFIG, numbered(), "cpu").held_out) == 0
    assert len(draw_labels(CONFIG, numbered()).held_out) == 0


def test_meta_images_are_in_no_fold_and_join_every_training() -> None:
    config = replace(CONFIG, label_noise=0.4, folds=5, fold=2)
    without = prepare_data(config, numbered(), "cpu")
    added = prepare_data(replace(config, meta_in_training=True), numbered(), "cpu")
    assert read(added.held_out) == read(without.held_out)
    assert read(added.train) == read(without.train) | read(without.meta)
    alone = prepare_data(replace(config, meta_in_training=True, folds=1, fold=0), numbered(), "cpu")
    assert read(alone.train) == read(without.meta)
    assert sorted(read(alone.held_out)) == sorted(read(without.train) | read(without.held_out))


def test_the_seed_alone_decides_the_folds() -> None:
    config = replace(CONFIG, folds=3, fold=1)
    first = draw_labels(config, numbered()).held_out.tolist()
    torch.rand(3)
    again = replace(config, policy=LearnedConfig(), lr=1.0)
    assert draw_labels(again, numbered()).held_out.tolist() == first
    # Of the same images, other folds: train_size None takes all but the meta-validation images.
    parts = [
        draw_labels(replace(config, seed=seed, meta_size=3, train_size=None), numbered()).held_out
        for seed in range(4)
    ]
    assert len({tuple(part.tolist()) for part in parts}) == 4
    # And drawn, not dealt in the order of the images: every third one of each class.
    every = draw_labels(CONFIG, numbered())
    dealt = [i for c in range(3) for i in every.indices[every.given == c].tolist()]
    assert first != sorted(dealt[1::3])


def test_more_folds_than_images_are_refused() -> None:
    with pytest.raises(ValueError, match="folds=7 of 6 training images; choose fewer"):
        draw_labels(replace(CONFIG, train_size=6, folds=7), numbered())


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_few_images_remain_trainable(size: int) -> None:
    few = replace(CONFIG, train_size=size, imbalance=100.0, label_noise=0.4)
    sizes = Counter(numbered().train_labels[list(read(prepare_data(few, numbered(), "cpu").train))])
    # Of four images one class has two; only the first class may keep both.
    assert all(count == 1 for label, count in sizes.items() if label > 0)
    assert len(sizes) == min(size, 3)


@every_noise
def test_images_decoded_while_training_get_the_same_labels(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    for part, first in (("train", 0), ("test", 100)):
        for number in range(first, first + 60):
            folder = tmp_path / part / f"class {number % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.full((4, 4), 7, np.uint8)
            pixels[0, 0] = number
            Image.fromarray(pixels).save(folder / f"{number}.png")
    name = f"folder:{tmp_path}"
    config = replace(CONFIG, dataset=name, **changes)
    memory = prepare_data(config, load_source(name), "cpu")
    files = prepare_data(config, load_source(name, memory_limit=0), "cpu")
    assert isinstance(files.train, StreamedImages)
    assert read(files.train) == read(memory.train)
    assert wrong(read(files.train)) == wrong(read(memory.train)) != {}
    assert not wrong(read(files.meta) | read(files.test))
    assert torch.equal(files.train.labels, memory.train.labels)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_noise
def test_a_gpu_gets_the_same_labels(changes: dict[str, Any]) -> None:
    config = replace(CONFIG, **changes)
    here, there = (prepare_data(config, numbered(), device) for device in ("cpu", "cuda"))
    assert read(there.train) == read(here.train)
    assert torch.equal(there.train.labels, here.train.labels)


def test_meta_validation_labels_are_as_noisy_by_draws_of_their_own() -> None:
    config = replace(CONFIG, label_noise=0.5, seed=1)
    clean, noisy = (
        prepare_data(replace(config, meta_noise=m), numbered(), "cpu") for m in (False, True)
    )
    assert read(noisy.train) == read(clean.train)
    assert all(label == number % 3 for number, label in read(clean.meta).items())
    wrong = Counter(number % 3 for number, label in read(noisy.meta).items() if label != number % 3)
    assert wrong == {0: 2, 1: 2, 2: 2}  # half of four each
    drawn = flip_labels(clean.meta.labels, 3, fraction=0.5, seed=1)  # by the draws of training
    assert noisy.meta.labels.tolist() != drawn.tolist()
    everything = replace(config, meta_noise=True, meta_in_training=True)
    added = prepare_data(everything, numbered(), "cpu")
    assert read(added.train) == read(noisy.train) | read(noisy.meta)
    drawn_labels = draw_labels(everything, numbered())
    assert int((drawn_labels.given != drawn_labels.true).sum()) == 15 + 6


@pytest.mark.parametrize("meta_noise", [False, True])
def test_labels_of_a_file_are_carried_in_the_order_of_the_data_set(
    tmp_path: Path, meta_noise: bool
) -> None:
    given = [number % 2 for number in range(60)]
    (tmp_path / "labels.txt").write_text("\n".join(map(str, given)))
    file = with_fingerprint(str(tmp_path / "labels.txt"))
    config = replace(CONFIG, labels=file, meta_noise=meta_noise)
    data, plain = (prepare_data(c, numbered(), "cpu") for c in (config, CONFIG))
    assert read(data.train) == {number: number % 2 for number in read(plain.train)}
    meta = {number: number % (2 if meta_noise else 3) for number in read(plain.meta)}
    assert read(data.meta) == meta
    assert read(data.test) == read(plain.test)
    assert torch.equal(*(draw_labels(c, numbered()).true for c in (config, CONFIG)))
    with pytest.raises(ValueError, match="has 60 labels for 100 training images"):
        draw_labels(replace(CONFIG, labels=file), load_other())


def test_meta_validation_images_are_of_those_that_somebody_has_checked(tmp_path: Path) -> None:
    """Of each class the last eight of 20 are checked; four of them judge, the others train."""
    checked = np.arange(60) >= 36
    np.save(tmp_path / "checked.npy", checked)
    config = replace(CONFIG, train_size=None, checked=with_fingerprint(f"{tmp_path}/checked.npy"))
    drawn = []
    for seed in range(3):
        data = prepare_data(replace(config, seed=seed), numbered(), "cpu")
        meta = read(data.meta)
        assert min(meta) >= 36
        assert Counter(meta.values()) == {0: 4, 1: 4, 2: 4}
        assert read(data.train).keys() == set(range(60)) - meta.keys()
        drawn.append(sorted(meta))
    assert drawn[0] != drawn[1] != drawn[2]
    np.save(tmp_path / "corrected.npy", np.ones(60, int))
    corrected = replace(config, labels=f"{tmp_path}/corrected.npy", meta_noise=True)
    assert {*read(prepare_data(corrected, numbered(), "cpu").meta).values()} == {1}
    # Those that train are no fewer unchecked ones than there are: a subset is drawn from all.
    subset = read(prepare_data(replace(config, train_size=30), numbered(), "cpu").train)
    assert 10 < sum(number < 36 for number in subset) < 30
    everything = tmp_path / "all.npy"
    np.save(everything, np.ones(60))
    of_all = prepare_data(replace(CONFIG, checked=str(everything)), numbered(), "cpu")
    plain = prepare_data(CONFIG, numbered(), "cpu")
    assert (read(of_all.train), read(of_all.meta)) == (read(plain.train), read(plain.meta))


@pytest.mark.parametrize(
    ("checked", "message"),
    [
        (np.arange(60) >= 51, r"class 0 \(0\) has 3 checked images left, needs 4 for meta_size=12"),
        (np.ones(59), "checked: labels .* has 59 labels for 60 training images"),
        (np.arange(60) % 3, r"checked: labels .* has 2 at index 2; labels must lie in \[0, 1\]"),
    ],
)
def test_what_is_checked_has_to_do(tmp_path: Path, checked: np.ndarray, message: str) -> None:
    np.save(tmp_path / "checked.npy", checked)
    with pytest.raises(ValueError, match=message):
        draw_labels(replace(CONFIG, checked=f"{tmp_path}/checked.npy"), numbered())


def test_what_is_left_out_does_not_train() -> None:
    plain = draw_labels(CONFIG, numbered())
    mask = torch.arange(30) % 7 == 3
    assert pack_mask(mask) == "10204080"  # bits 3, 10, 17, 24
    assert torch.equal(unpack_mask("10204080", 30), mask)
    config = replace(CONFIG, left_out=pack_mask(mask), folds=3, meta_in_training=True)
    folds = draw_labels(replace(CONFIG, folds=3), numbered())
    actual = draw_labels(config, numbered())
    remaining = {*plain.indices[~mask].tolist()} & {*folds.indices.tolist()}
    meta = read(prepare_data(CONFIG, numbered(), "cpu").meta)
    assert {*actual.indices.tolist()} == remaining | meta.keys()
    assert actual.held_out.tolist() == folds.held_out.tolist()
    with pytest.raises(ValueError, match="left_out leaves no training image"):
        draw_labels(replace(CONFIG, left_out=pack_mask(mask | True)), numbered())
    with pytest.raises(ValueError, match="mask of 16 images at most does not fit 30"):
        draw_labels(replace(CONFIG, left_out="00ff"), numbered())
    with pytest.raises(ValueError, match="hexadecimal"):
        draw_labels(replace(CONFIG, left_out="no"), numbered())


def load_other() -> Source:
    """Returns a data set of another size."""
    pixels, labels = np.zeros((100, 2, 2), np.uint8), np.arange(100) % 3
    return source_from_arrays("other", pixels, labels, pixels, labels)

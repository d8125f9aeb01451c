from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from core.data import DATASETS, Source, load_source, make_splits, source_from_arrays
from core.models import MODELS
from core.training.config import TrainingConfig
from hpo.study import presets

ALL = [*DATASETS, "folder:/data/birds"]


def source_of(*counts: int) -> Source:
    """Returns a source with one class for each number of training images."""
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.zeros((len(labels), 4, 4), np.uint8)
    return source_from_arrays("mine", images, labels, images[:2], labels[:2])


@pytest.mark.parametrize("dataset", ALL)
def test_paper_is_the_papers_own_setting(dataset: str) -> None:
    """Section IV-B, as in the facts around the paper: what it says and nothing reduced."""
    expected: dict[str, Any] = {
        "batch_size": 128,
        "lr": 0.1,
        "schedule": "cosine",
        "epochs": 600,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "flip": True,
        "translate": 0,
        "meta_size": 1000,
        "train_size": None,
        "image_size": None,
        "width": None,
        "meta_in_training": False,
        "model": "preact_resnet18",
    }
    if dataset in ("mnist", "fashion_mnist"):
        expected["model"] = "cnn"
    if dataset == "digits":  # not in the paper, 1297 images in all
        expected |= {"model": "digits_cnn", "meta_size": 200}
    actual = asdict(presets.training(dataset, "paper"))
    assert {name: actual[name] for name in expected} == expected
    assert actual["dataset"] == dataset


@pytest.mark.parametrize("dataset", ALL)
def test_the_presets_shrink_from_paper_to_smoke(dataset: str) -> None:
    paper, quick, smoke = (presets.training(dataset, name) for name in ("paper", "quick", "smoke"))
    assert paper.epochs > quick.epochs > smoke.epochs == 2
    assert quick.train_size is not None
    assert smoke.train_size is not None
    assert quick.train_size >= smoke.train_size == 100
    assert paper.meta_size >= quick.meta_size > smoke.meta_size == 50
    assert smoke == replace(quick, epochs=2, train_size=100, meta_size=50)
    for training in (paper, quick, smoke):
        assert training.model in MODELS
        assert not training.meta_in_training


@pytest.mark.parametrize("dataset", ["digits", "mnist", "svhn"])
def test_what_a_mirror_turns_into_something_else_is_not_flipped(dataset: str) -> None:
    assert not presets.training(dataset, "quick").flip
    assert presets.training("cifar10", "quick").flip


@pytest.mark.parametrize("name", presets.PRESETS)
def test_a_search_fits_in_its_preset(name: str) -> None:
    """Halving comes before the end of a training, well after its warm-up, and TPE has trials of its
    own."""
    settings = presets.search(name)
    assert settings.startup < settings.trials
    for dataset in ALL:
        training = presets.training(dataset, name)
        assert 3 * training.warmup_epochs < settings.min_epochs < training.epochs


def test_an_unknown_preset_is_named_with_those_there_are() -> None:
    with pytest.raises(
        ValueError, match="unknown preset 'fast'; choose one of smoke, quick, contest, paper"
    ):
        presets.training("digits", "fast")


# fit_to


def fitted(source: Source, **settings: Any) -> TrainingConfig:
    config = presets.fit_to(replace(presets.training("mnist", "quick"), **settings), source)
    make_splits(  # raises where the sizes do not fit
        source.train_labels,
        source.num_classes,
        meta_size=config.meta_size,
        train_size=config.train_size,
        seed=0,
    )
    return config


@pytest.mark.parametrize(
    ("counts", "meta_size", "train_size"),
    [
        ([3000] * 3, 500, 4000),  # room enough: as the preset says
        ([2000, 2000], 500, None),  # 3500 left, 4000 wanted: all of them
        ([2250, 2250], 500, 4000),  # exactly
        ([50] * 4, 40, None),  # a fifth of 200
        ([33] * 3, 18, None),  # a fifth of 99 is 19: 6 of each class
        ([4] * 5, 5, None),  # a fifth of 20 is 4, but one of each class there must be
    ],
)
def test_sizes_are_cut_to_what_there_is(
    counts: list[int], meta_size: int, train_size: int | None
) -> None:
    config = fitted(source_of(*counts))
    assert (config.meta_size, config.train_size) == (meta_size, train_size)
    assert config == replace(
        presets.training("mnist", "quick"), meta_size=meta_size, train_size=train_size
    )


def test_all_images_asked_for_stay_all_images() -> None:
    assert fitted(source_of(5000, 5000), train_size=None).train_size is None


@pytest.mark.parametrize("name", presets.PRESETS)
def test_digits_fits_its_own_presets(name: str) -> None:
    config = presets.training("digits", name)
    assert presets.fit_to(config, load_source("digits")) == config

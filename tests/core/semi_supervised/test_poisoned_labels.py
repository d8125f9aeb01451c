"""The labels of unlabelled images are replaced by wrong ones, and nothing that is trained notices.

Wrong labels would change which images are drawn as labelled, so the splits are those of the true
labels in both trainings.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from core.data import Source, Splits, load_source
from core.policies import Beta, LearnedConfig, NoMix, PolicyConfig, ScoresConfig
from core.semi_supervised.config import SemiSupervisedConfig
from core.training import few_labels_data
from core.training.config import TrainingConfig
from core.training.few_labels import SemiSupervisedTraining
from core.training.fit import reproducible, start
from core.training.prepared_data import draw_splits
from core.training.training import Training

NONE, LEARNED = NoMix(), LearnedConfig()
BETA = Beta(alpha=0.75, per_sample=True)

METHODS: dict[str, tuple[PolicyConfig, dict[str, Any]]] = {
    "supervised": (NONE, {"kind": "supervised"}),
    "pi-model": (NONE, {"kind": "pi-model", "weight": 20.0}),
    "mean-teacher": (NONE, {"kind": "mean-teacher", "weight": 8.0, "ema": 0.8}),
    "vat": (NONE, {"kind": "vat", "epsilon": 2.0}),
    "vat + em": (NONE, {"kind": "vat", "epsilon": 2.0, "entropy": 0.1}),
    # Ten classes: untrained networks are seldom surer than this.
    "pseudo-label": (NONE, {"kind": "pseudo-label", "threshold": 0.13}),
    "mixup + apl": (
        BETA,
        {
            "kind": "pseudo-label",
            "threshold": 0.15,
            "threshold_step": 0.03,
            "threshold_period": 1,
        },
    ),
    "metamixup + pseudo-label": (LEARNED, {"kind": "pseudo-label", "threshold": 0.13}),
    "scores + pseudo-label": (
        ScoresConfig(),
        {"kind": "pseudo-label", "threshold": 0.13},
    ),
    "mixmatch without mixup": (NONE, {"kind": "mixmatch", "weight": 25.0, "ema": 0.8}),
    "mixmatch": (BETA, {"kind": "mixmatch", "weight": 25.0, "ema": 0.8}),
    "mixmatch + metamixup": (LEARNED, {"kind": "mixmatch", "weight": 25.0, "ema": 0.8}),
}
every_method = pytest.mark.parametrize("name", METHODS)

digits = functools.cache(lambda: load_source("digits"))


def configured(name: str) -> TrainingConfig:
    policy, settings = METHODS[name]
    return TrainingConfig(
        "digits", "digits_cnn", policy, train_size=44, meta_size=20, width=4, epochs=2,
        batch_size=8, meta_batch_size=8, lr=0.05, translate=1,
        semi=SemiSupervisedConfig(labelled=20, **settings),
    )  # fmt: skip


def poisoned(source: Source, splits: Splits) -> Source:
    """Returns a source whose unlabelled images each have the class after their own."""
    assert splits.unlabelled is not None
    labels = source.train_labels.copy()
    rows = splits.unlabelled.numpy()
    labels[rows] = (labels[rows] + 1) % source.num_classes
    return replace(source, train_labels=labels)


def trained(config: TrainingConfig, source: Source) -> tuple[Training, dict[str, Any]]:
    """Returns the training after its last epoch, and all numbers of its result but the time it
    took."""
    with reproducible(config.seed, device="cpu", threads=1):
        training = start(config, source, "cpu")
        for _ in range(config.epochs):
            training.epoch()
        result = training.result().to_dict()
    del result["train_seconds"]
    for metrics in result["history"]:
        del metrics["train_seconds"]
    return training, result


@every_method
def test_wrong_labels_of_unlabelled_images_change_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch, toy: SimpleNamespace
) -> None:
    config = configured(name)
    splits = draw_splits(config, digits())
    wrong = poisoned(digits(), splits)
    assert int((wrong.train_labels != digits().train_labels).sum()) == 24
    monkeypatch.setattr(few_labels_data, "draw_splits", lambda *_: splits)
    clean, clean_result = trained(config, digits())
    other, other_result = trained(config, wrong)
    # The wrong labels are there, and what is counted against them, and only that, may tell.
    assert isinstance(clean, SemiSupervisedTraining)
    assert isinstance(other, SemiSupervisedTraining)
    assert bool((clean._images.true_labels != other._images.true_labels).all())
    for result in (clean_result, other_result):
        for metrics in result["history"]:
            metrics.pop("accepted_accuracy", None)
    if config.semi is not None and config.semi.kind == "pseudo-label":
        assert clean_result["history"][-1]["accepted"] > 0
    assert other_result == clean_result
    one, two = clean.state_dict(), other.state_dict()
    assert one.keys() == two.keys()
    for part in one:
        if part != "history":
            assert toy.identical(one[part], two[part]), part


@every_method
def test_wrong_labels_of_a_labelled_image_change_a_lot(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above would see labels that are used."""
    config = configured(name)
    splits = draw_splits(config, digits())
    assert splits.labelled is not None
    labels = digits().train_labels.copy()
    row = int(splits.labelled[0])
    labels[row] = (labels[row] + 1) % 10
    monkeypatch.setattr(few_labels_data, "draw_splits", lambda *_: splits)
    _, clean = trained(config, digits())
    _, other = trained(config, replace(digits(), train_labels=labels))
    assert clean["train_loss"] != other["train_loss"]


def test_the_unlabelled_images_carry_no_labels() -> None:
    images = few_labels_data.prepare_semi_data(configured("vat"), digits(), "cpu").unlabelled
    assert images.labels.tolist() == [0] * 24
    ((_, labels),) = images.batches([torch.arange(24)])
    assert labels.tolist() == [0] * 24
    assert len(np.unique(digits().train_labels)) == 10

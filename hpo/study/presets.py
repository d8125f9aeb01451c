"""The trainings of each data set under each preset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from core.policies import NoMix
from core.training.config import TrainingConfig
from hpo.search.protocol import SearchSettings
from hpo.study.rows import StudyRow
from hpo.study.variants import with_meta_images

if TYPE_CHECKING:
    from core.data import Source

Preset = Literal["smoke", "quick", "contest", "paper"]
PRESETS: tuple[str, ...] = get_args(Preset)

_NONE = NoMix()

_PAPER: Mapping[str, dict[str, Any]] = {
    "digits": {"model": "digits_cnn", "meta_size": 200},
    "mnist": {"model": "cnn"},
    "fashion_mnist": {"model": "cnn"},
}
"""Where a data set differs from the paper's settings for color images."""

_QUICK: Mapping[str, dict[str, Any]] = {
    "digits": {
        "model": "digits_cnn",
        "image_size": None,
        "train_size": 100,
        "meta_size": 200,
        "epochs": 150,
        "batch_size": 50,
        "meta_batch_size": 50,
        "lr": 0.05,
        "flip": False,
    },
    "mnist": {"image_size": 14, "lr": 0.05, "flip": False},
    "fashion_mnist": {"image_size": 14, "lr": 0.05},
    "svhn": {"flip": False},
}
"""Where a data set differs from the reduced settings for color images. Digits are not flipped."""


_CNN: dict[str, Any] = {
    "model": "cnn",
    "image_size": 14,
    "epochs": 90,
    "lr": 0.05,
    "weight_decay": 1e-4,
    "translate": 0,
    "precision": "float32",
}
_CONTEST: Mapping[str, dict[str, Any]] = {
    "digits": {
        **_CNN,
        "model": "digits_cnn",
        "image_size": None,
        "train_size": 300,
        "meta_size": 200,
        "epochs": 200,
        "batch_size": 50,
        "meta_batch_size": 50,
        "flip": False,
    },
    "mnist": {**_CNN, "flip": False},
    "fashion_mnist": _CNN,
    "svhn": {"flip": False},
}
"""Where a data set differs from the contest's settings for color images."""


def training(dataset: str, preset: str) -> TrainingConfig:
    """Returns the training that all rows of a study share.

    `paper`: Section IV-B to the letter: batch 128, SGD 0.1 with momentum 0.9 and weight decay 1e-4,
    cosine annealing, 600 epochs, horizontal flip, 1000 meta-validation images; the 3-layer CNN for
    MNIST and Fashion-MNIST, PreActResNet-18 for the rest (digits, which the paper does not have:
    a small CNN and 200 meta-validation images, as it has 1297 training images in all).

    `contest`: reduced sets, trained for as long as MixUp needs to pay, with a warm-up so that no
    training stays at the chance level; hours on two cores for ten seeds. 4,000 training and 500
    meta-validation images, batch 64. (With the long tail of ratio 50, without mixing, 1 of 50 seeds
    of the CNN was still at 62 % error after four epochs without the warm-up, and none of 50 four
    epochs after it.) Fashion-MNIST and MNIST: the 3-layer CNN of half its width at
    14×14 for 90 epochs; digits: a small CNN, 300 images, 200 epochs; color images: PreActResNet-18
    of width 16 at 32×32, crop and flip, weight decay 5e-4, 60 epochs in bf16.

    `quick`: reduced images and sets, sized for ten minutes on two cores for Table II with three
    seeds: a demonstration, too short for MixUp to pay. `smoke`: the same trimmed to seconds; its
    numbers mean nothing.

    Args:
        dataset: a name of `core.data.DATASETS` or `folder:PATH`.
        preset: one of PRESETS.

    Raises:
        ValueError: the preset is unknown.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
    if preset == "paper":
        return replace(
            TrainingConfig(dataset=dataset, model="preact_resnet18", policy=_NONE),
            **_PAPER.get(dataset, {}),
        )
    reduced = TrainingConfig(
        dataset=dataset,
        model="cnn",
        policy=_NONE,
        image_size=16,
        train_size=4000,
        meta_size=500,
        epochs=20,
        batch_size=64,
        meta_batch_size=64,
        lr=0.02,  # at 0.05 some seeds of the CNN never leave the chance level
    )
    own = (_CONTEST if preset == "contest" else _QUICK).get(dataset, {})
    if preset == "contest":
        reduced = replace(
            reduced,
            model="preact_resnet18",
            width=16,
            image_size=32,
            epochs=60,
            lr=0.1,
            weight_decay=5e-4,
            warmup_epochs=3,
            translate=4,
            precision="bf16",
            memory_format="channels_last",
        )
    reduced = replace(reduced, **own)
    if _of_a_factory(dataset):
        reduced = replace(reduced, image_size=None)
    if preset == "smoke":
        return replace(reduced, train_size=100, meta_size=50, epochs=2)
    return reduced


def _of_a_factory(dataset: str) -> bool:
    """Says whether items are of the size that they should be: those of the user's own."""
    return ":" in dataset and not dataset.startswith("folder:")


def search(preset: str) -> SearchSettings:
    """Returns how long a search is, by preset."""
    if preset == "smoke":
        return SearchSettings(trials=3, startup=2, min_epochs=1, reduction=2)
    if preset == "contest":
        return SearchSettings(
            trials=12,
            startup=6,
            halving=False,
            min_epochs=20,  # of strategies that halve: well after the warm-up
            replicates=3,
            with_zero=True,
            ties_by_loss=True,
            own_draws=True,
        )
    if preset == "quick":
        return SearchSettings(trials=12, startup=4, min_epochs=5, reduction=3)
    return SearchSettings(trials=20, startup=6, min_epochs=25, reduction=3)


def budget(preset: str) -> float:
    """Returns what a strategy may cost for each seed, in units of a plain training, by preset."""
    return {"smoke": 6.0, "quick": 12.0, "contest": 12.0}.get(preset, 20.0)


def rows(
    preset: str, table: Sequence[StudyRow], contenders: Sequence[StudyRow] = ()
) -> list[StudyRow]:
    """Returns the rows that a study trains where nobody names some.

    Args:
        preset: "contest" has the contenders too; "quick" the searched Betas once more, those with
            "+meta", which could as well have trained on the images that they were selected on.
        table, contenders: of the study.
    """
    if preset == "contest":
        return [*table, *contenders]
    searched = [row for row in table if row.searched is not None and row.row.family == "beta"]
    return [*table, *(map(with_meta_images, searched) if preset == "quick" else ())]


def fit_to(config: TrainingConfig, source: Source) -> TrainingConfig:
    """Returns the training with its sizes cut to what a small data set has, class-balanced.

    A preset's sizes are for the usual data sets; a user's own folder may be smaller.
    Meta-validation takes at most a fifth of the training images.
    """
    n, classes = len(source.train_labels), source.num_classes
    meta = min(config.meta_size, max(classes, n // 5 // classes * classes))
    train = config.train_size
    if train is not None and train > n - meta:
        train = None
    flip = config.flip and source.holds_images
    return replace(config, meta_size=meta, train_size=train, flip=flip)

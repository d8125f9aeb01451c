"""What a training would stumble over is said before the first one begins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from core.data import Source, source_from_arrays
from core.policies import CutMix, NoMix, PolicyConfig, ScoresConfig
from core.training.config import TrainingConfig
from hpo.command_line.checks import check_training

LABELS = np.arange(20) % 2
ITEMS = np.linspace(0, 1, 60, dtype=np.float32).reshape(20, 3)
FEATURES = Source("mine:features", ("a", "b"), 3, 1, LABELS, LABELS, ITEMS, ITEMS)
TRAINING = TrainingConfig(
    "mine:features", "torch.nn:Linear?in_features=3&out_features=2", NoMix(),
    meta_size=4, flip=False,
)  # fmt: skip


@pytest.mark.parametrize("policy", [CutMix(), ScoresConfig(mixing="area")])
def test_boxes_need_images(policy: PolicyConfig) -> None:
    check_training(TRAINING, FEATURES, [NoMix()], None)
    with pytest.raises(ValueError, match=rf"policy {policy.kind} pastes boxes.* is \[3\]; leave"):
        check_training(TRAINING, FEATURES, [NoMix(), policy], None)


def test_a_class_that_is_too_small_for_any_seed_is_told_before_the_first_training() -> None:
    """Of three classes one gives an image more, another one from seed to seed."""
    labels = np.repeat([0, 1, 2], [40, 40, 5])
    pixels = np.zeros((len(labels), 1, 8, 8), dtype=np.uint8)
    source = source_from_arrays("mine", pixels, labels, pixels[:3], [0, 1, 2])
    training = TrainingConfig("mine", "digits_cnn", NoMix(), meta_size=13)
    fits = [seed for seed in range(8) if _splits(training, source, [seed])]
    assert 0 < len(fits) < 8
    check_training(training, source, [], None, fits)
    with pytest.raises(ValueError, match=r"no training image is left of class 2 \(meta_size=13"):
        check_training(training, source, [], None, range(8))


def _splits(training: TrainingConfig, source: Source, seeds: list[int]) -> bool:
    try:
        check_training(training, source, [], None, seeds)
    except ValueError:
        return False
    return True


def test_images_that_would_be_pushed_out_are_told_before_the_first_training() -> None:
    pixels, labels = np.zeros((40, 1, 8, 8), dtype=np.uint8), np.arange(40) % 2
    source = source_from_arrays("mine", pixels, labels, pixels, labels)
    training = TrainingConfig("mine", "digits_cnn", NoMix(), meta_size=4, translate=7)
    check_training(training, source, [], None)
    with pytest.raises(ValueError, match=r"--translate 8 would push images of mine out.* 8x8 "):
        check_training(replace(training, translate=8), source, [], None)

from __future__ import annotations

import numpy as np
import pytest

from core.analysis.config import AnalysisConfig
from core.policies import Beta, CutMix, PolicyConfig, ScoresConfig
from core.semi_supervised import SemiSupervisedConfig
from core.training.config import TrainingConfig

PAPER = AnalysisConfig(pair_epochs=(3, 30, 90, 120))


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (600, (3, 30, 90, 120, 600)),
        (121, (3, 30, 90, 120, 121)),
        (120, (3, 30, 90, 120)),
        (119, (3, 30, 90, 119)),  # 2.975, 29.75, 89.25 up
        (40, (1, 10, 30, 40)),
        (20, (1, 5, 15, 20)),
        (3, (1, 3)),  # 0.075, 0.75, 2.25, 3
        (1, (1,)),
    ],
)
def test_epochs_are_scaled_to_a_shorter_training(epochs: int, expected: tuple[int, ...]) -> None:
    assert PAPER.pairs_at(epochs) == expected


def test_without_epochs_none_is_kept() -> None:
    assert AnalysisConfig().pairs_at(600) == ()


@pytest.mark.parametrize("name", ["unmixed_images", "plane_images", "mixed_samples"])
def test_negative_numbers_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 0, got -1"):
        AnalysisConfig(**{name: -1})


@pytest.mark.parametrize("policy", [CutMix(), ScoresConfig(mixing="area")])
def test_samples_that_are_no_blends_of_images_are_not_looked_at(policy: PolicyConfig) -> None:
    analysis = AnalysisConfig(mixed_samples=10)
    with pytest.raises(ValueError, match=f"blends of whole images, and policy {policy.kind} mixes"):
        TrainingConfig("digits", "digits_cnn", policy, analysis=analysis)
    assert TrainingConfig("digits", "digits_cnn", Beta(alpha=1.0), analysis=analysis).analysis


def test_what_a_network_does_not_show_is_not_looked_at() -> None:
    """It is refused before the training, not after it."""
    with pytest.raises(ValueError, match="2 features, which cnn has not; choose the model cnn_2d"):
        TrainingConfig("digits", "cnn", Beta(), analysis=AnalysisConfig(plane_images=10))
    with pytest.raises(ValueError, match="features, and model mine:net shows none"):
        TrainingConfig("digits", "mine:net", Beta(), analysis=AnalysisConfig(mixed_samples=10))


def test_numbers_are_pythons_and_of_their_type() -> None:
    epochs = AnalysisConfig(pair_epochs=[np.int64(1), np.int64(3)]).pair_epochs  # type: ignore[arg-type]
    assert epochs == (1, 3)
    assert [type(epoch) for epoch in epochs] == [int, int]
    with pytest.raises(ValueError, match=r"unmixed_images must be a whole number, got 10\.0"):
        AnalysisConfig(unmixed_images=10.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="labelled must be a whole number, got '40'"):
        SemiSupervisedConfig("pi-model", labelled="40")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("epochs", "message"),
    [((0, 3), "got 0 after 0"), ((3, 3), "got 3 after 3"), ((30, 3), "got 3 after 30")],
)
def test_epochs_must_rise(epochs: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"pair_epochs must rise from at least 1, {message}"):
        AnalysisConfig(pair_epochs=epochs)

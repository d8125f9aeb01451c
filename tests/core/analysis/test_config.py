from __future__ import annotations

import pytest

from core.analysis.config import AnalysisConfig
from core.policies import Beta, CutMix, PolicyConfig, ScoresConfig
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


@pytest.mark.parametrize(
    ("epochs", "message"),
    [((0, 3), "got 0 after 0"), ((3, 3), "got 3 after 3"), ((30, 3), "got 3 after 30")],
)
def test_epochs_must_rise(epochs: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"pair_epochs must rise from at least 1, {message}"):
        AnalysisConfig(pair_epochs=epochs)

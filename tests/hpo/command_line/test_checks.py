"""What a training would stumble over is said before the first one begins."""

from __future__ import annotations

import numpy as np
import pytest

from core.data import Source
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

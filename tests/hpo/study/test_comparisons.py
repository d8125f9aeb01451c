"""What is declared of the comparisons of a study."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.policies import NoMix
from core.training.config import TrainingConfig
from hpo.study.comparisons import Comparisons, Pair

PLAIN = TrainingConfig("digits", "cnn", NoMix())
TAIL, NOISE, OTHER = ("adjusted", "none"), ("gce", "none"), ("beta-1", "none")
DECLARED = Comparisons(positive=OTHER, positive_where={"imbalance": TAIL, "label_noise": NOISE})


@pytest.mark.parametrize(
    ("training", "missing", "positive"),
    [
        (PLAIN, "", OTHER),
        (replace(PLAIN, imbalance=50.0), "", TAIL),
        (replace(PLAIN, imbalance=50.0), "adjusted", OTHER),
        (replace(PLAIN, label_noise=0.4), "", NOISE),
    ],
)
def test_the_positive_control_is_one_that_is_known_to_help_there(
    training: TrainingConfig, missing: str, positive: Pair
) -> None:
    keys = {"none", "beta-1", "adjusted", "gce"} - {missing}
    assert DECLARED.of(training, keys) == replace(DECLARED, positive=positive)

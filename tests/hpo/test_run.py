from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.config import PolicyConfig, TrainingConfig
from hpo import command_line, run
from hpo.plan import StudyRow
from hpo.report import Row

TRAINING = TrainingConfig("digits", "digits_cnn", PolicyConfig("none"))
ROWS = [StudyRow(Row("none", "None", "", "none"), PolicyConfig("none"))]
TAIL = " Training images cut to a long tail, largest over smallest class {}, at least one of each."
NOISE = " {} % of the training labels of each class are wrong ({})."


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ""),
        ({"label_noise": 0.4}, NOISE.format(40, "symmetric")),
        ({"label_noise": 0.125, "label_noise_kind": "pair"}, NOISE.format(12.5, "pair")),
        ({"imbalance": 50.0}, TAIL.format(50)),
        (
            {"imbalance": 2.5, "label_noise": 0.6},
            TAIL.format(2.5) + NOISE.format(60, "symmetric"),
        ),
    ],
)
def test_the_report_says_what_was_done_to_the_training_images(
    changes: dict[str, Any], told: str
) -> None:
    assert run.scenario(replace(TRAINING, **changes)) == told


def test_every_cell_of_a_study_is_of_the_scenario(tmp_path: Path) -> None:
    flags = "--label-noise 0.4 --label-noise-kind pair --imbalance 5 --seeds 2 --output"
    options = command_line.parse("table2", "", [*flags.split(), str(tmp_path)])
    plan, _ = run.prepare("table2", ROWS, options)
    cells = plan.fixed_cells()
    assert [cell.seed for cell in cells] == [0, 1]
    for cell in cells:
        training = cell.training
        assert (training.label_noise, training.label_noise_kind) == (0.4, "pair")
        assert training.imbalance == 5.0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--train-size 1200", r"needs 120 for train_size=1200 over 10 classes"),
        ("--label-noise 40", r"label_noise must lie in \[0, 1\], got 40.0"),
        ("--label-noise-kind pair", "no use without label_noise"),
        ("--imbalance 0.5", "imbalance must be finite and at least 1, got 0.5"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_training(
    flags: str, message: str, tmp_path: Path
) -> None:
    options = command_line.parse("table2", "", [*flags.split(), "--output", str(tmp_path)])
    with pytest.raises(ValueError, match=message):
        run.prepare("table2", ROWS, options)

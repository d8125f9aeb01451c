from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from hpo.study import presets
from studies.proposition1 import PAIRS, looked_at, main


@pytest.mark.parametrize(
    ("dataset", "preset", "model"),
    [
        ("digits", "quick", "digits_cnn_smooth"),
        ("digits", "paper", "digits_cnn_smooth"),
        ("fashion_mnist", "smoke", "cnn_smooth"),
        ("cifar10", "paper", "cnn_smooth"),
    ],
)
def test_every_preset_gets_a_smooth_network(dataset: str, preset: str, model: str) -> None:
    before = presets.training(dataset, preset)
    training = looked_at(before)
    assert training.model == model
    assert training.analysis is not None
    assert training.analysis.curvature_pairs == PAIRS
    assert {n: v for n, v in training.to_dict().items() if n not in ("model", "analysis")} == {
        n: v for n, v in before.to_dict().items() if n not in ("model", "analysis")
    }


def test_a_network_of_ones_own_must_be_smooth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--preset", "smoke", "--model", "digits_cnn", "--output", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "the gradient of digits_cnn jumps; choose cnn_smooth" in capsys.readouterr().err
    given = replace(presets.training("digits", "quick"), model="cnn_smooth")
    assert looked_at(given).model == "cnn_smooth"  # not the one for digits


@pytest.mark.slow
def test_smoke(tmp_path: Path, capsys: pytest.CaptureFixture[str], nothing_drawn: None) -> None:
    arguments = ["--preset", "smoke", "--seeds", "1", "--epochs", "1", "--rows", "none,beta-1"]
    assert main([*arguments, "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "(P2): no pair violates it" in printed
    looks = pd.read_csv(tmp_path / "proposition1-looks.csv")
    assert sorted(zip(looks["method"], looks["output"], strict=True)) == [
        (method, output) for method in ("beta-1", "none") for output in ("logit", "probability")
    ]
    assert (looks["ratio"] <= looks["kappa"]).all()
    names = {path.name for path in tmp_path.iterdir()}
    expected = {f"proposition1{end}" for end in (".csv", ".md", ".png", "-curvature.png")}
    assert expected <= names

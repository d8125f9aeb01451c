"""The study of finding wrong labels as a user runs it."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

from hpo import command_line
from hpo.analyses.labels.comparison import require_cleanlab
from hpo.study import presets
from studies.label_errors import DEFAULTS, METHODS, clean_epochs, main, rows
from tests.support.stores import tracked_runs


def parsed(*flags: str) -> command_line.Options:
    return command_line.parse("label_errors", "", flags, defaults=DEFAULTS)


def test_every_method_has_its_trainings() -> None:
    table = {row.row.key: row for row in rows(7)}
    assert len(table) == len(rows(7)) == 14
    for method in METHODS:
        assert set(method.trainings) <= set(table)
    plain, clean = ([table[key].training for key in METHODS[i].trainings] for i in (2, 3))
    assert plain == [{"folds": 5, "fold": fold} for fold in range(5)]
    assert clean == [{**training, "meta_in_training": True} for training in plain]
    assert table["clean"].training == {"folds": 1, "meta_in_training": True, "epochs": 7}
    assert all(
        table[key].policy == table["none"].policy for m in METHODS[2:] for key in m.trainings
    )


@pytest.mark.parametrize(
    ("flags", "epochs"),
    [
        ("", 150),  # digits: 100 training and 200 clean images
        ("--train-size 1000 --epochs 3", 15),
        ("--train-size 1001 --epochs 1", 6),
        ("--dataset fashion_mnist", 160),  # 20 epochs of 4000 for 500
        ("--dataset fashion_mnist --dataset digits --epochs 20", 160),
        ("--preset paper --epochs 10", 55),  # 1297 - 200 for 200
        ("--dataset folder:somewhere --preset paper --epochs 10", 10),
    ],
)
def test_the_clean_images_alone_get_as_many_steps(flags: str, epochs: int) -> None:
    options = parsed(*flags.split())
    assert clean_epochs(options) == epochs


def test_defaults_of_its_own_that_flags_replace() -> None:
    options = parsed()
    assert (options.seeds, options.overrides, options.preset) == (5, {"label_noise": 0.4}, "quick")
    options = parsed("--label-noise", "0.2")
    assert options.overrides == {"label_noise": 0.2}
    assert presets.training("digits", "quick").label_noise == 0


def test_help_says_its_own_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "trainings of each row (default: 5)" in said
    assert "labels of each class to make wrong, 0 to 1 (default: 0.4)" in said


def test_without_cleanlab_nothing_is_trained_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab.rank", None)
    with pytest.raises(ImportError):
        require_cleanlab()
    out = ["--output", str(tmp_path / "out")]
    for chosen in ([], ["--rows", "none,fold-2"]):
        assert main([*chosen, *out]) == 2
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1
        assert "label_errors: error: cleanlab is not installed" in printed
    assert not (tmp_path / "out").exists()
    # Other rows do not need it: this one is refused for another reason.
    assert main(["--rows", "none,scores", "--label-noise", "40", *out]) == 2
    assert "label_noise must lie in [0, 1]" in capsys.readouterr().err


@pytest.mark.slow
def test_its_files_and_what_is_tracked(tmp_path: Path, nothing_drawn: None) -> None:
    pytest.importorskip("cleanlab", reason="needs cleanlab (pip install '.[label-errors]')")
    out = tmp_path / "out"
    study = ["--preset", "smoke", "--seeds", "1", "--output", str(out)]
    assert main(study) == 0
    names = ("comparison.csv", "differences.csv", "comparison.png", "label-errors.csv",
             "scores-digits-suspects.csv", "scores-digits-suspects.png")  # fmt: skip
    for name in names:
        assert (out / f"label_errors-{name}").stat().st_size > 100
    table = pd.read_csv(out / "label_errors-comparison.csv")
    assert table.groupby("method")["seed"].apply(sorted).to_dict() == {
        method.key: [0] for method in METHODS
    }
    assert ((table["wrong"] == 40) & (table["total"] == 100)).all()
    # Two roads to the same numbers.
    scores = pd.read_csv(out / "label_errors-label-errors.csv")
    merged = table.merge(scores, on=["method", "seed"], suffixes=("", "_too"))
    assert len(merged) == 1
    assert (merged["auc"] == merged["auc_too"]).all()
    assert "Finding wrong labels" in (out / "label_errors.md").read_text()
    stored = list((out / "mlartifacts").rglob("label_errors-*"))
    assert {path.name for path in stored} >= {f"label_errors-{name}" for name in names}

    logged = {key for run in tracked_runs(out) for key in run.data.metrics}
    # Numbers of a training, and what labels found: not the score or prediction of each image.
    assert {"test_error", "val_error", "label_errors_auc"} <= logged
    assert len(logged) < 50
    assert not {"scores", "probabilities"} & logged

"""The studies of Figures 2 to 7: their rows, what they train, and each from cells to its files.

The cells are trained in this process: how a study runs them on Ray, is killed and goes on is the
same for all studies, and tested with Table II.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from core.analysis.config import AnalysisConfig
from core.meta.reading import DEFAULT, PAPER
from core.models import build_model
from core.training.config import TrainingConfig
from hpo.study import presets
from studies import figure2, figure3, figure4, figure5, figure6, figure7

STUDIES = {
    "figure2": figure2,
    "figure3": figure3,
    "figure4": figure4,
    "figure5": figure5,
    "figure6": figure6,
    "figure7": figure7,
}
# A few rows of each, so that CI has the time.
ROWS = {
    "figure2": "beta-1,metamixup",
    "figure3": "beta-1,metamixup-10,metamixup-50,metamixup-paper-10",
    "figure4": "beta-1,metamixup",
    "figure5": "none,beta-1,adamixup,metamixup,placebo,frozen",
    "figure6": "beta-1,metamixup-paper,metamixup",
    "figure7": "metamixup,placebo",
}
SMALL = ["--preset", "smoke", "--seeds", "2", "--dataset", "digits"]


@pytest.mark.parametrize("name", STUDIES)
def test_both_readings_are_there(name: str) -> None:
    rows = STUDIES[name].rows()
    keys = {row.row.key for row in rows}
    readings = {getattr(row.policy, "reading", None) for row in rows}
    assert {DEFAULT, PAPER} <= readings
    assert "beta-1" in keys or name == "figure7"
    assert set(ROWS[name].split(",")) <= keys


def adapted(name: str, dataset: str, preset: str) -> TrainingConfig:
    study: ModuleType = STUDIES[name]
    training = presets.training(dataset, preset)
    return study.adapted(training) if hasattr(study, "adapted") else training


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("preset", presets.PRESETS)
@pytest.mark.parametrize("dataset", ["digits", "mnist", "cifar10"])
def test_models_are_those_of_the_paper_where_it_names_one(
    name: str, preset: str, dataset: str
) -> None:
    before = presets.training(dataset, preset)
    after = adapted(name, dataset, preset)
    expected = before.model
    if name == "figure4":
        expected = "cnn_2d"
    elif name in ("figure2", "figure7") and preset == "paper" and dataset == "cifar10":
        expected = "resnet50"
    assert after.model == expected
    assert replace(after, model=before.model, analysis=None) == before
    size = after.image_size or {"digits": 8, "mnist": 28, "cifar10": 32}[dataset]
    model = build_model(after.model, in_channels=1, num_classes=10, image_size=size, width=2)
    assert name != "figure4" or model.classifier.in_features == 2


def test_what_is_looked_at() -> None:
    assert adapted("figure2", "digits", "quick").analysis == AnalysisConfig(unmixed_images=1000)
    assert adapted("figure3", "digits", "quick").analysis is None
    assert adapted("figure4", "digits", "quick").analysis == AnalysisConfig(plane_images=1000)
    assert adapted("figure5", "digits", "quick").analysis == AnalysisConfig(mixed_samples=2000)
    assert adapted("figure6", "digits", "quick").analysis is None
    actual = adapted("figure7", "digits", "paper").analysis
    assert actual is not None
    assert actual.pair_epochs == (3, 30, 90, 120)


def test_figure_3_varies_the_number_of_images_and_nothing_else() -> None:
    learned = figure3.rows()[1:]
    assert [row.training["meta_size"] for row in learned] == 2 * [10, 20, 50, 100, 500, 1000]
    assert all(list(row.training) == ["meta_size"] for row in learned)
    assert [row.policy.reading for row in learned if row.policy] == 6 * [DEFAULT] + 6 * [PAPER]


def test_figure_5_has_all_policies() -> None:
    kinds = {row.policy.kind for row in figure5.rows() if row.policy is not None}
    assert kinds == {
        "none", "beta", "fixed", "learned", "placebo", "scores", "adamixup",
        "adamixup-no-discriminator",
    }  # fmt: skip
    assert {row.row.key for row in figure5.rows() if row.policy is None} == {"frozen"}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns one folder for all studies, whose store they share."""
    return tmp_path_factory.mktemp("figures") / "out"


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_each_figure_from_cells_to_its_files(
    name: str, output: Path, capsys: pytest.CaptureFixture[str], nothing_drawn: None
) -> None:
    arguments = [*SMALL, "--rows", ROWS[name], "--output", str(output)]
    assert STUDIES[name].main(arguments) == 0
    captured = capsys.readouterr()
    assert "error" not in captured.err.replace("validation error", "")
    assert (output / f"{name}.png").stat().st_size > 10_000
    frame = pd.read_csv(output / f"{name}.csv")
    assert frame.select_dtypes("number").notna().any().all()
    text = (output / f"{name}.md").read_text().split("\n\n", 2)[2].strip()
    assert text in captured.out
    assert text in (output / f"{name}-errors.md").read_text()
    assert list(pd.read_csv(output / f"{name}-errors.csv")["method"]) == ROWS[name].split(",")
    copies = {path.name for path in (output / "mlartifacts").rglob(f"{name}*")}
    assert {f"{name}.png", f"{name}.csv", f"{name}.md"} <= copies


@pytest.mark.slow
def test_maps_of_class_pairs_are_drawn_at_the_epochs_that_were_looked_at(
    tmp_path: Path, nothing_drawn: None
) -> None:
    flags = [*SMALL, "--rows", "metamixup", "--epochs", "3", "--output", str(tmp_path)]
    assert figure7.main(flags) == 0
    frame = pd.read_csv(tmp_path / "figure7.csv")
    assert sorted(frame["epoch"].unique()) == [1, 3]  # 0.075, 0.75, 2.25 and 3
    assert len(frame) == 2 * 100
    assert len(list((tmp_path / "mlartifacts").rglob("lam_by_class_pair*.png"))) == 4

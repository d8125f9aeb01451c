"""The study of remedies: each alone, with scores, and with its own knob searched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from core.policies import Beta, NoMix
from core.training.config import TrainingConfig
from hpo.command_line import parse
from hpo.run.data import prepare
from hpo.search.configured import setting
from hpo.study.comparisons import Pair
from hpo.study.recipes import Searched
from studies import remedies
from tests.support.stores import tracked_runs

ALL = [*remedies.rows(), *remedies.CONTENDERS]


def test_each_remedy_has_its_row_with_scores_and_is_its_control() -> None:
    by_key = {row.row.key: row for row in ALL}
    assert len(by_key) == len(ALL)
    assert len(remedies.REMEDIES) == 9
    for remedy in remedies.REMEDIES:
        scored = by_key[f"scores+{remedy.row.key}"]
        assert scored.row.counterpart == remedy.row.key
        assert scored.training == remedy.training
        assert scored.policy is not None
        assert scored.policy.learns
        if remedy.row.key != "cutmix":  # it mixes already
            mixed = by_key[f"beta-1+{remedy.row.key}"]
            assert mixed.row.counterpart == remedy.row.key
            assert (mixed.training, mixed.policy) == (remedy.training, Beta(alpha=1.0))
    assert remedies.COMPARISONS.primary == (
        ("scores+logit-adjusted", "beta-1+logit-adjusted"),
        ("scores+gce", "beta-1+gce"),
    )
    every = {row.row.key for row in remedies.rows()}
    for first, second in remedies.COMPARISONS.primary:
        assert {first, second} <= every
        assert by_key[f"{first}-placebo"].row.control_of == first


def test_a_search_varies_the_knobs_of_its_remedy_alone(tmp_path: Path) -> None:
    flags = ["--preset", "smoke", "--seeds", "1", "--output", str(tmp_path)]
    names = [row.row.key for row in remedies.CONTENDERS]
    keys = ",".join(key for key in names if key.endswith("-searched"))
    assert keys.count("-searched") == 9
    options = parse("remedies", "", [*flags, "--rows", keys])
    plan, _ = prepare("remedies", options.chosen(remedies.rows(), remedies.CONTENDERS), options)
    searches = plan.open_searches()
    assert len(searches) == 9
    for (method, _, _), search in searches.items():
        remedy = next(r for r in remedies.rows() if r.row.key == method.removesuffix("-searched"))
        training = search.next().training
        for name, value in remedy.training.items():
            assert getattr(training, name) == value or name == "logit_adjustment"
        row = next(r for r in remedies.CONTENDERS if r.row.key == method)
        assert isinstance(row.recipe, Searched)
        space = row.recipe.space
        both = method == "meta-weight-net-searched"
        assert {*space} == {"lr", "net_lr"} if both else len(space) == 1
        assert all(p.low <= setting(training, name) <= p.high for name, p in space.items())


def test_a_row_with_a_loss_of_its_own_keeps_its_strength_too(tmp_path: Path) -> None:
    """The strength that a flag gives is of the loss that a flag gives."""
    flags = ["--preset", "smoke", "--seeds", "1", "--output", str(tmp_path)]
    flags += ["--loss", "gce", "--loss-strength", "0.5", "--rows", "none,elr,scores+smoothed,gce"]
    options = parse("remedies", "", flags)
    plan, _ = prepare("remedies", options.chosen(remedies.rows()), options)
    taken = {c.method: (c.training.loss, c.training.loss_strength) for c in plan.fixed_cells()}
    assert taken == {
        "none": ("gce", 0.5),
        "elr": ("elr", None),
        "scores+smoothed": ("smoothed", None),
        "gce": ("gce", None),
    }


@pytest.mark.parametrize(
    ("settings", "positive"),
    [
        ({"imbalance": 50.0}, ("logit-adjusted", "none")),
        ({"label_noise": 0.4}, ("gce", "none")),
        ({"labels": "worse.npy"}, ("gce", "none")),
        ({}, None),
    ],
)
def test_the_positive_control_is_what_the_study_says(
    settings: dict[str, Any], positive: Pair | None
) -> None:
    training = TrainingConfig("digits", "cnn", NoMix(), **settings)
    declared = remedies.COMPARISONS.of(training, [row.row.key for row in ALL])
    assert declared.positive == positive


@pytest.mark.slow
def test_a_smoke_run_compares_scores_with_the_remedy_that_they_add_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], nothing_drawn: None
) -> None:
    rows = "none,beta-1,gce,scores+gce,beta-1+gce,gce-searched,"
    rows += "cutmix,scores+cutmix,trivial-augment,elr"
    command = ["--preset", "smoke", "--seeds", "1", "--rows", rows, "--label-noise", "0.4"]
    assert remedies.main([*command, "--meta-noise", "--output", str(tmp_path)]) == 0
    controls = pd.read_csv(tmp_path / "remedies-controls.csv").set_index("control")
    assert set(controls.loc["counterpart", "control_method"]) == {"gce", "cutmix"}
    assert (controls.loc["counterpart", "n_seeds"] == 1).all()
    printed = capsys.readouterr().out
    assert "primary comparison: Scores + Generalized cross-entropy − MixUp (α = 1) +" in printed
    report = (tmp_path / "remedies.md").read_text()
    assert "40 % of the training labels of each class are wrong (symmetric)" in report
    assert "Meta-validation labels are as noisy" in report
    runs = [run.data for run in tracked_runs(tmp_path)]
    noisy = {run.tags["kind"] for run in runs if run.params.get("label_noise") == "0.4"}
    assert noisy >= {"study", "cell"}

"""Tests of the study of long-tailed and mislabelled training images."""

from __future__ import annotations

import pandas as pd
import pytest

from hpo.command_line import parse
from studies import scenarios


def _keys(arguments: list[str]) -> list[str]:
    options = parse("scenarios", "", arguments)
    return [row.row.key for row in options.chosen(scenarios.rows(), scenarios.CONTENDERS)]


def test_rows_that_train_on_the_validation_images_are_chosen_by_name_and_compete_with_no_beta():
    rows = {row.row.key: row for row in scenarios.rows()}
    assert rows["scores-4+meta"].meta_in_training
    assert rows["scores-4+meta"].row.family == "extra"
    assert not any(row.meta_in_training for row in rows.values() if row.row.family == "learned")
    chosen = _keys(["--rows", "none,beta-search+meta,scores-4+meta"])
    assert sorted(chosen) == ["beta-search+meta", "none", "scores-4+meta"]
    assert _keys([]).count("beta-search+meta") == 1


def test_rivals_that_learn_weights_are_there_on_request():
    rivals = ["l2rw", "l2rw-placebo", "meta-weight-net", "meta-weight-net-placebo"]
    assert not {*_keys([])} & {*rivals}
    assert _keys(["--rows", f"none,{','.join(rivals)}"]) == ["none", *rivals]


@pytest.mark.slow
def test_a_smoke_run_compares_the_scores_with_each_of_their_controls(
    tmp_path, capsys, nothing_drawn
):
    rows = "beta-1,scores,scores-placebo,scores-frozen,scores-4,scores-4+meta"
    command = ["--preset", "smoke", "--seeds", "1", "--rows", rows, "--label-noise", "0.4"]
    assert scenarios.main([*command, "--output", str(tmp_path)]) == 0
    controls = pd.read_csv(tmp_path / "scenarios-controls.csv")
    controls = controls[controls["method"] == "scores"]
    actual = controls.set_index("control")["control_method"].to_dict()
    assert actual == {
        "placebo": "scores-placebo",
        "frozen": "scores-frozen",
        "best beta": "beta-1",
    }
    table = pd.read_csv(tmp_path / "scenarios.csv").set_index("method")
    assert (table["n_seeds"] == 1).all()
    # The validation images train as well, in as many steps.
    seen = table["samples_seen"]
    assert seen["scores-4+meta"] == seen["scores-4"] > seen["beta-1"] == 200
    assert "Scores" in capsys.readouterr().out

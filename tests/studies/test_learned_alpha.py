"""Tests of the study of α learned late in a training."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from core.policies import Frozen, LearnedBetaConfig
from hpo.command_line import parse
from studies import contrast, learned_alpha


def test_controls_and_variants_share_all_with_the_learned_row_but_one_thing() -> None:
    rows = {each.row.key: each.policy for each in learned_alpha.rows()}
    rows |= {each.row.key: each.policy for each in learned_alpha.CONTENDERS}
    assert rows["learned-beta"] == LearnedBetaConfig()
    assert rows["learned-beta-placebo"] == LearnedBetaConfig(permute=True)
    assert rows["learned-beta-never"] == LearnedBetaConfig(begin=1.0)
    assert rows["learned-beta-brier"] == LearnedBetaConfig(objective="brier")
    assert rows["learned-beta-never"].cost == 1
    assert rows["learned-beta"].cost < 1.3
    assert LearnedBetaConfig().frozen((0.0, 1.0)) == Frozen((0.0, 1.0))


def test_the_learned_row_is_a_strategy_of_contrast_where_it_is_asked_for() -> None:
    def keys(*arguments: str) -> list[str]:
        options = parse("contrast", "", [*arguments], budgeted=True)
        return [each.row.key for each in options.chosen(contrast.rows(), contrast.CONTENDERS)]

    assert "learned-beta" not in keys()
    assert {"learned-beta", "learned-beta-outer", "pbt-alpha-stop"} < {*keys("--preset", "contest")}
    assert keys("--rows", "learned-beta,tpe-alpha") == ["tpe-alpha", "learned-beta"]


@pytest.mark.slow
def test_a_smoke_run_leaves_alpha_over_the_training(tmp_path: Path, nothing_drawn: None) -> None:
    rows = "none,beta-1,beta-1-stop-0.83,learned-beta,learned-beta-placebo,learned-beta-frozen"
    command = ["--preset", "smoke", "--seeds", "1", "--rows", rows, "--epochs", "4"]
    assert learned_alpha.main([*command, "--output", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "learned_alpha.csv").set_index("method")
    assert (table["n_seeds"] == 1).all()
    assert len(table) == 6

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from studies import table3, table4


def test_the_numbers_and_settings_are_those_of_table_3_where_both_have_them() -> None:
    ours = {row.row.key: row for row in table4.rows()}
    theirs = {row.row.key: row for row in table3.rows()}
    assert ours["pseudo-label"].semi == theirs["pseudo-label"].semi
    assert ours["pseudo-label"].semi.paper_errors["svhn", 500] == 9.91
    assert ours["apl"].semi.paper_errors == {
        ("cifar10", 1000): 24.36,
        ("cifar10", 4000): 16.96,
        ("svhn", 500): 8.68,
        ("svhn", 1000): 7.46,
    }
    assert ours["apl-literal"].semi.own == {"threshold_formula": "literal"}
    assert ours["apl-literal"].semi.paper_errors == {}


def test_apl_is_compared_with_pseudo_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], nothing_drawn: None
) -> None:
    command = ["--preset", "smoke", "--seeds", "1", "--epochs", "3", "--output", str(tmp_path)]
    assert table4.main(command) == 0
    frame = pd.read_csv(tmp_path / "table4.csv").set_index("method")
    assert list(frame.index) == ["supervised-only", "pseudo-label", "apl", "apl-literal"]
    assert frame["diff_vs_reference"].isna().to_dict() == {
        "supervised-only": False, "pseudo-label": True, "apl": False, "apl-literal": False,
    }  # fmt: skip
    assert "APL" in capsys.readouterr().out
    thresholds = pd.read_csv(tmp_path / "table4-pseudo-labels.csv").pivot(
        index="epoch", columns="method", values="threshold"
    )
    assert thresholds["pseudo-label"].nunique() == 1
    assert thresholds["apl"].is_monotonic_decreasing
    assert thresholds["apl"].iloc[-1] < thresholds["apl"].iloc[0]
    assert thresholds["apl-literal"].iloc[-1] < 0.1

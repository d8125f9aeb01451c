from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from hpo.cells.store import CellStore
from studies import table5


def test_the_grid_is_the_papers() -> None:
    *grid, search = table5.rows()
    assert [row.semi.own for row in grid] == [
        {"threshold_step": step} for step in (0.01, 0.05, 0.1, 0.2)
    ]
    assert [row.semi.paper_errors["cifar10", 4000] for row in grid] == [11.84, 11.50, 11.22, 11.98]
    assert [row.semi.paper_errors["svhn", 1000] for row in grid] == [5.94, 5.34, 5.55, 5.67]
    assert search.strategy is not None


def test_a_search_of_the_same_cost_is_set_against_the_grid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], nothing_drawn: None
) -> None:
    command = ["--preset", "smoke", "--seeds", "1", "--epochs", "2", "--train-size", "100"]
    assert table5.main([*command, "--output", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "table5.csv")
    assert list(table["method"]) == ["apl-0.01", "apl-0.05", "apl-0.1", "apl-0.2"]
    assert set(table["reference"].dropna()) == {"apl-0.05"}
    assert (table["labels_with_meta"] == 100).all()
    curves = pd.read_csv(tmp_path / "table5-search.csv")
    spent = curves.groupby("strategy")["cost_units"].max()
    assert spent["grid"] == 4 * 4.5
    assert spent["grid"] - 4.5 < spent["search"] <= spent["grid"]
    tried = [
        r.cell.training.semi for r in CellStore(tmp_path).records() if r.cell.purpose == "search"
    ]
    assert len({(semi.threshold_step, semi.threshold_period) for semi in tried}) == len(tried) >= 4
    assert all(isinstance(semi.threshold_period, int) for semi in tried)
    assert "The grid against a search at equal cost" in capsys.readouterr().out

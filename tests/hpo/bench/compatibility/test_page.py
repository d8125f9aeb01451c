"""The page of what works: tried anew or taken from the table, and its marks for every result."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from torch import nn

from hpo.bench.compatibility import KINDS, rows
from hpo.bench.compatibility.layers import LAYERS
from hpo.bench.compatibility.losses import LOSSES
from hpo.bench.compatibility.networks import Network
from hpo.bench.compatibility.optimizers import OPTIMIZERS
from hpo.bench.compatibility.page import page
from hpo.bench.compatibility.rows import ENGINES
from studies.compatibility import main


def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries one or two of each kind only."""
    layers = {name: LAYERS[name] for name in ("SiLU", "cdist (p = 2.0)")}
    monkeypatch.setattr(rows, "LAYERS", layers)
    losses = {name: LOSSES[name] for name in ("F.cross_entropy", "MSELoss")}
    monkeypatch.setattr(rows, "LOSSES", losses)
    optimizers = {name: OPTIMIZERS[name] for name in ("Adam", "LBFGS")}
    monkeypatch.setattr(rows, "OPTIMIZERS", optimizers)

    class Small(Network):
        def make(self, name: str) -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, 10))

    monkeypatch.setattr(rows, "NETWORKS", {"small": Small(4)})


def test_all_is_tried_and_the_rest_is_taken_from_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few(monkeypatch)
    docs = ["--docs", str(tmp_path)]
    assert main(docs) == 0
    table = pd.read_csv(tmp_path / "evidence" / "compatibility.csv")
    assert len(table) == 7 * len(ENGINES)
    results = {(r["name"], r["engine"]): r["result"] for _, r in table.iterrows()}
    assert results["small", "auto"] == "right"
    assert results["SiLU", "forward_reverse"] == "right"
    assert results["cdist (p = 2.0)", "auto"] == "refused"
    assert results["cdist (p = 2.0)", "finite_difference"] == "right"
    assert results["Adam", "auto"] == "right"
    assert results["LBFGS", "auto"] == "refused"
    text = (tmp_path / "compatibility.md").read_text()
    assert "| SiLU | ✓ | ✓ | ✓ | ✓ |" in text
    assert "| cdist (p = 2.0) | 2nd | 2nd | fwd | ✓ |" in text
    assert "| MSELoss | ✓ | ✓ | fwd | ✓ |" in text
    assert "| LBFGS | no | no | no | no |" in text
    assert "- LBFGS: the `higher` library has no differentiable form of LBFGS" in text
    monkeypatch.setattr(rows, "LAYERS", {})
    monkeypatch.setattr(rows, "NETWORKS", {})
    monkeypatch.setattr(rows, "LOSSES", {"F.cross_entropy": LOSSES["F.cross_entropy"]})
    assert main(["--kinds", "loss", *docs]) == 0
    again = (tmp_path / "compatibility.md").read_text()
    assert "| SiLU | ✓ | ✓ | ✓ | ✓ |" in again
    assert "MSELoss" not in again
    with pytest.raises(SystemExit):
        main(["--kinds", "loss,stone"])
    assert "got stone" in capsys.readouterr().err


def test_what_ends_it_early_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["--docs", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.startswith("compatibility: error: ")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hpo.bench.compatibility.page.tried", interrupted)
    assert main(["--docs", str(tmp_path)]) == 130
    said = capsys.readouterr().err
    assert said == "compatibility: interrupted; the kinds that were done are kept\n"


def test_what_is_wrong_is_counted_shown_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few(monkeypatch)
    monkeypatch.setattr(rows, "error", lambda *given: 0.5)
    assert main(["--kinds", "loss", "--docs", str(tmp_path)]) == 1
    assert "wrong: loss MSELoss under auto, off by 0.5" in capsys.readouterr().out
    text = (tmp_path / "compatibility.md").read_text()
    assert "| MSELoss | ✗ | ✗ | ✗ | ≈ |" in text
    assert "2 approximate" in text
    assert "6 wrong" in text


def test_the_committed_page_is_that_of_the_committed_table() -> None:
    docs = Path(__file__).parents[4] / "docs"
    table = pd.read_csv(docs / "evidence" / "compatibility.csv")
    assert (docs / "compatibility.md").read_text(encoding="utf-8") == page(table)
    assert set(table["kind"]) == set(KINDS)
    assert not (table["result"] == "wrong").any()

"""The contrast as a user runs it, and the same trainings without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from core.data import load_source
from core.training.result import TrainingResult
from hpo import command_line
from hpo.cells.cell import Cell
from hpo.cells.result import PartialResult, Result
from hpo.cells.store import CellStore
from hpo.cluster.trainable import train
from hpo.run import work
from hpo.search.drive import Ending, run_through
from hpo.search.spaces import BETA_ALPHA
from hpo.search.strategies import Evolved, Listed, Sampled
from studies.contrast import rows
from tests.support.scripts import run_calmly

FLAGS = ["--preset", "smoke", "--seeds", "1", "--epochs", "4", "--budget", "5"]
KEYS = "metamixup,tpe-joint,pbt-alpha"
STUDY = ["contrast", *FLAGS, "--rows", KEYS, "--workers", "1"]


@pytest.fixture(scope="module")
def trained_by_ray(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the output of a study under Ray; `tests/hpo/search` kills its strategies at any
    moment."""
    return run_calmly(*STUDY, output=tmp_path_factory.mktemp("contrast") / "out")


def test_the_strategies_are_those_of_the_issue() -> None:
    strategies: dict[str, Any] = {row.row.key: row.strategy for row in rows()}
    sampled = {
        key: (s.policy.kind, sorted(s.space), s.sampler, s.halving)
        for key, s in strategies.items()
        if isinstance(s, Sampled)
    }
    assert sampled == {
        "random-alpha": ("beta", ["alpha"], "random", False),
        "random-alpha-asha": ("beta", ["alpha"], "random", True),
        "tpe-alpha": ("beta", ["alpha"], "tpe", False),
        "tpe-alpha-asha": ("beta", ["alpha"], "tpe", True),
        "tpe-joint": ("beta", ["alpha", "lr", "weight_decay"], "tpe", True),
        "metamixup-outer": ("learned", ["lr", "step_size", "weight_decay"], "tpe", True),
        "scores-outer": ("scores", ["lr", "step_size", "weight_decay"], "tpe", True),
    }
    assert strategies["tpe-alpha"].space == BETA_ALPHA
    listed = {key: s.policies for key, s in strategies.items() if isinstance(s, Listed)}
    assert [policy.kind for policy in listed["metamixup"]] == ["learned"]
    assert [policy.kind for policy in listed["scores"]] == ["scores"]
    assert [policy.lam for policy in listed["fixed-grid"]] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert strategies.keys() - sampled.keys() - listed.keys() == {"pbt-alpha"}
    assert isinstance(strategies["pbt-alpha"], Evolved)


@pytest.mark.slow
def test_curves_text_figure_and_runs_are_there(trained_by_ray: Path) -> None:
    table = pd.read_csv(trained_by_ray / "contrast.csv")
    assert list(dict.fromkeys(table["strategy"])) == [
        row.row.key for row in rows() if row.row.key in KEYS.split(",")
    ]
    for _, curve in table.groupby(["strategy", "seed"]):
        for cost in ("cost_units", "train_seconds", "samples_seen"):
            assert curve[cost].is_monotonic_increasing
        assert curve["cost_units"].max() <= 5
        errors = curve["val_error"].dropna()
        assert errors.is_monotonic_decreasing
        assert len(errors) > 0
    assert (trained_by_ray / "contrast.png").stat().st_size > 10_000
    text = (trained_by_ray / "stdout.txt").read_text()
    for row in (trained_by_ray / "contrast.md").read_text().splitlines():
        if row.startswith("|"):
            assert row in text
    assert not list(trained_by_ray.rglob("*.pt"))


@pytest.mark.slow
def test_it_ends_as_a_plain_loop_that_trains_here(trained_by_ray: Path) -> None:
    """Without Ray, each search reported to epoch by epoch."""
    flags = [*FLAGS, "--rows", KEYS, "--output", str(trained_by_ray)]
    options = command_line.parse("contrast", "", flags, budgeted=True)
    plan, _ = work.prepare("contrast", options.chosen(rows()), options)
    source = load_source("digits")
    stored = {record.cell.id: record for record in CellStore(trained_by_ray).records()}
    seen = set()

    def ended(cell: Cell) -> Ending:
        result: Result = train(cell, source=source)
        stop = searches[plan.search_key(cell)].report(result.history)
        if stop is not None:
            result = PartialResult.of(result.history[:stop])
        record = stored[cell.id]
        assert record.status == ("finished" if stop is None else "pruned")
        assert len(record.result.history) == len(result.history)
        for mine, theirs in zip(result.history, record.result.history, strict=True):
            assert {k: v for k, v in mine.items() if k != "train_seconds"} == {
                k: v for k, v in theirs.items() if k != "train_seconds"
            }
        if isinstance(result, TrainingResult):
            assert record.trained.test_error == result.test_error
        seen.add(cell.id)
        return record.status, result

    searches = plan.open_searches()
    for search in searches.values():
        run_through(search, ended)
    assert seen == stored.keys()

"""What runs under Ray, all on one: numbers as without it, and what happens when a worker fails."""

from __future__ import annotations

import io
import os
import re
import runpy
from collections.abc import Iterator
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch

import hpo
from core.data import ImageSet, Source, load_source
from core.policies import Beta, LearnedConfig, NoMix
from core.training.fit import fit
from core.training.result import TrainingResult
from hpo import command_line
from hpo.cells.cell import Cell
from hpo.cells.record import CellRecord
from hpo.cells.result import PartialResult, Result
from hpo.cells.store import CellStore, StoreError
from hpo.cells.trials import Function, Report
from hpo.cluster.runner import run_on_ray
from hpo.cluster.session import Demand, Session, session
from hpo.cluster.trainable import train
from hpo.run import work
from hpo.search.drive import Ending, run_through
from hpo.search.protocol import SearchSettings
from hpo.storage.folder import FolderStorage
from hpo.study.plan import Plan, source_key
from hpo.study.progress import Progress
from hpo.study.recipes import SEARCHED_ALPHA
from hpo.study.rows import Row, StudyRow
from hpo.study.study_run import StudyRun
from hpo.tracking.tracker import StudyTracker
from studies import contrast
from tests.support.digit_trainings import TINY, numbers
from tests.support.ray_command import RAYS_OWN_WARNINGS
from tests.support.scripts import ROOT

pytestmark = [pytest.mark.slow, RAYS_OWN_WARNINGS]

# The network has dropout, which draws from the process's global stream.
BASE = replace(TINY, meta_size=50, batch_size=25, meta_batch_size=25, lr=0.02)
RECIPES = {
    "none": NoMix(),
    "beta-1": Beta(alpha=1.0),
    "metamixup": LearnedConfig(),
    "beta-search": SEARCHED_ALPHA,
}
DEMAND = Demand(address=None, workers=2, threads=1, gpus=0, data_bytes=10**6)
FLAGS = ["--preset", "smoke", "--seeds", "1", "--epochs", "4", "--budget", "5"]
KEYS = "metamixup,tpe-joint,pbt-alpha"


@dataclass(frozen=True, eq=False)
class BrokenSource(Source):
    """Fails in the worker, and only there."""

    def images(
        self,
        part: Literal["train", "test"],
        indices: torch.Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> ImageSet:
        raise RuntimeError("the disk of this worker is gone")


@dataclass(frozen=True)
class Studied:
    """What a study with two workers left: its folder, and its records by data set."""

    output: Path
    records: dict[str, list[CellRecord]]


class FullStore(CellStore):
    """A disk that takes no result."""

    def save(self, record: CellRecord) -> None:
        raise StoreError(f"cannot write {record.cell.id}: no space left on device")


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    """Has all that is run here find one Ray, which takes longer to start than most of it."""
    with session(DEMAND) as begun, pytest.MonkeyPatch.context() as patch:

        def found(demand: Demand) -> nullcontext[Session]:
            """What wants fewer workers has joined it: a cell that waits ahead would run at once."""
            whole = demand.workers == begun.workers
            return nullcontext(Session(demand.workers or begun.workers, started_here=whole))

        patch.setattr("hpo.cluster.runner.session", found)
        patch.setattr("hpo.cluster.trials.session", found)
        yield


@pytest.fixture(scope="module")
def studied(ray: None, tmp_path_factory: pytest.TempPathFactory) -> Studied:
    """Returns what is left of a study of three data sets: of one a worker's disk is gone, with
    another all diverges."""
    output, digits = tmp_path_factory.mktemp("studied"), load_source("digits")
    fields = {name: getattr(digits, name) for name in Source.__dataclass_fields__}
    sources = {
        "digits": digits,
        "broken": BrokenSource(**{**fields, "name": "broken"}),
        "steep": replace(digits, name="steep"),
    }
    base = {name: replace(BASE, dataset=name) for name in sources}
    base["steep"] = replace(base["steep"], lr=1e8)
    rows = [StudyRow(Row(key, key, key, "beta"), recipe) for key, recipe in RECIPES.items()]
    search = SearchSettings(trials=3, startup=2, min_epochs=1, reduction=2)
    plan = Plan("table2", rows, list(sources), [0, 1], base, search)
    with (
        open(output / "progress.txt", "w") as stream,
        StudyTracker(None, output=output, experiment="t", study_id="t", params={}) as tracker,
    ):
        fingerprints = {name: source.fingerprint() for name, source in sources.items()}
        run = StudyRun(plan, CellStore(output), tracker, Progress(stream), fingerprints)
        loaded = {source_key(base[name]): source for name, source in sources.items()}
        storage = FolderStorage(output)
        run_on_ray(run, loaded, DEMAND, output=output, storage=storage, device="cpu")
        assert run.finished
        assert run.workers == 2
    of = {name: [r for r in run.records if r.cell.dataset == name] for name in sources}
    return Studied(output, of)


@pytest.fixture(scope="module")
def contrasted(ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the output of a study of strategies; `tests/hpo/search` kills them at any moment."""
    output = tmp_path_factory.mktemp("contrast") / "out"
    study = [*FLAGS, "--rows", KEYS, "--workers", "1", "--output", str(output)]
    with redirect_stdout(io.StringIO()) as printed, redirect_stderr(io.StringIO()) as told:
        assert contrast.main(study) == 0, told.getvalue()
    assert "Traceback" not in told.getvalue()
    assert "Warning" not in told.getvalue()
    (output / "stdout.txt").write_text(printed.getvalue())
    return output


def test_two_workers_and_alone_give_the_same_numbers(studied: Studied) -> None:
    records, source = studied.records["digits"], load_source("digits")
    assert sum(r.cell.purpose == "search" for r in records) == 3
    assert sum(r.cell.purpose == "final" for r in records) == 8
    assert {r.status for r in records} <= {"finished", "pruned"}
    for record in records:
        alone: Result = fit(record.cell.training, source=source)
        if record.status == "pruned":
            alone = PartialResult.of(alone.history[: len(record.result.history)])
        assert numbers(alone) == numbers(record.result)


def test_cells_that_fail_are_reported_and_the_others_go_on(studied: Studied) -> None:
    broken = studied.records["broken"]
    assert {r.status for r in broken} == {"crashed"}
    assert all("the disk of this worker is gone" in str(r.error) for r in broken)
    assert "the disk of this worker is gone" in (studied.output / "progress.txt").read_text()
    # Crashed cells are tried again next time, so they leave no record.
    assert {r.cell.dataset for r in CellStore(studied.output).records()} == {"digits", "steep"}


def test_cells_that_diverge_keep_the_epochs_before(studied: Studied) -> None:
    steep = studied.records["steep"]
    assert {r.status for r in steep} == {"diverged"}
    assert all("lower the learning rate" in str(r.error) for r in steep)
    assert all(isinstance(r.result, PartialResult) for r in steep)
    assert np.isfinite([r.result.train_seconds for r in steep]).all()


def test_what_fails_in_the_driver_keeps_its_message(tmp_path: Path) -> None:
    rows = [StudyRow(Row("none", "none", "none", "none"), NoMix())]
    plan = Plan("table2", rows, ["digits"], [0], {"digits": BASE}, SearchSettings())
    tracker = StudyTracker(None, output=tmp_path, experiment="t", study_id="t", params={})
    run = StudyRun(plan, FullStore(tmp_path), tracker, Progress(), {"digits": "d"})
    sources, storage = {("digits", None): load_source("digits")}, FolderStorage(tmp_path)
    with pytest.raises(StoreError, match="no space left on device"):
        run_on_ray(run, sources, DEMAND, output=tmp_path, storage=storage, device="cpu")
    tracker.close("FAILED")


def test_processes_of_a_comparison_may_die_and_the_numbers_are_those_of_one_process(
    tmp_path: Path,
) -> None:
    # Of this function alone: a process that knew others of this file would import all that it does.
    def dies(seed: int, report: Report) -> float:
        report(loss=0.5)
        if seed == 1 and not (tmp_path / "again").exists():
            os._exit(1)
        return 11.0 + seed % 2

    functions: dict[str, Function] = {"a": lambda seed, report: 10.0, "b": dies}
    first = hpo.compare(functions, output=tmp_path / "ray", workers=2, seeds=2)
    [error] = first.values["error"].dropna()
    assert error.startswith("its process died")
    (tmp_path / "again").touch()
    again = hpo.compare(functions, output=tmp_path / "ray", workers=2, seeds=2)
    alone = hpo.compare(functions, output=tmp_path / "alone", workers=0, seeds=2)
    pd.testing.assert_frame_equal(again.table, alone.table)


def test_the_example_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "your-own-classifier.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    [script] = [block for block in blocks if "hpo.contrast(" in block]
    script = script.replace("seeds=5", "seeds=1, workers=1").replace("epochs=30", "epochs=2")
    (tmp_path / "mine.py").write_text(script)
    monkeypatch.chdir(tmp_path)
    runpy.run_path("mine.py", run_name="__main__")
    said = capsys.readouterr()
    assert "cells 4/4" in said.err
    assert "MetaMixUp" in said.out


def test_curves_text_figure_and_runs_are_there(contrasted: Path) -> None:
    table = pd.read_csv(contrasted / "contrast.csv")
    assert list(dict.fromkeys(table["strategy"])) == [
        row.row.key for row in contrast.rows() if row.row.key in KEYS.split(",")
    ]
    for _, curve in table.groupby(["strategy", "seed"]):
        for cost in ("cost_units", "train_seconds", "samples_seen"):
            assert curve[cost].is_monotonic_increasing
        assert curve["cost_units"].max() <= 5
        errors = curve["val_error"].dropna()
        assert errors.is_monotonic_decreasing
        assert len(errors) > 0
    assert (contrasted / "contrast.png").stat().st_size > 10_000
    text = (contrasted / "stdout.txt").read_text()
    for row in (contrasted / "contrast.md").read_text().splitlines():
        if row.startswith("|"):
            assert row in text
    assert not list(contrasted.rglob("*.pt"))


def test_it_ends_as_a_plain_loop_that_trains_here(contrasted: Path) -> None:
    """Without Ray, each search reported to epoch by epoch."""
    flags = [*FLAGS, "--rows", KEYS, "--output", str(contrasted)]
    options = command_line.parse("contrast", "", flags, budgeted=True)
    plan, _ = work.prepare("contrast", options.chosen(contrast.rows()), options)
    source = load_source("digits")
    stored = {record.cell.id: record for record in CellStore(contrasted).records()}
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

"""What a cell takes of the driver: the same for the first and the last, and nothing stays."""

from __future__ import annotations

import gc
import io
import json
import os
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from core.policies import NoMix
from core.training.config import TrainingConfig
from hpo.bench.load.driver import (
    EVERY,
    ROWS,
    MeteredTracker,
    Sample,
    Usage,
    forget_usage,
    resident_bytes,
    slope,
    stored_usage,
)
from hpo.cells.record import CellRecord
from hpo.cells.store import CellStore
from hpo.search.protocol import SearchSettings
from hpo.study.plan import Plan
from hpo.study.progress import Progress
from hpo.study.study_run import StudyRun
from hpo.tracking.tracker import StudyTracker

BASE = TrainingConfig("digits", "digits_cnn", NoMix(), epochs=2)


class CountingStore(CellStore):
    """Notes each reading of a record."""

    loaded = 0

    def load(self, cell_id: str) -> CellRecord | None:
        self.loaded += 1
        return super().load(cell_id)


class CountingClient:
    """Passes everything on, and notes the names."""

    def __init__(self, client: Any):
        self._client = client
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **named: Any) -> Any:
            self.calls.append(name)
            return method(*arguments, **named)

        return call


class Silent:
    """A client that has room for everything and keeps nothing."""

    created = 0

    def create_run(self, *_: Any, **__: Any) -> SimpleNamespace:
        self.created += 1
        return SimpleNamespace(info=SimpleNamespace(run_id=f"{self.created}"))

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


class Study:
    """A study of so many cells whose trainings are made up."""

    def __init__(self, output: Path, cells: int, kind: type[StudyTracker] = StudyTracker):
        self.tracker = kind(None, output=output, experiment="t", study_id="t", params={})
        self.store = CountingStore(output)
        plan = Plan("t", ROWS, ["digits"], range(cells), {"digits": BASE}, SearchSettings())
        progress = Progress(io.StringIO())
        self.run = StudyRun(plan, self.store, self.tracker, progress, {"digits": "d"})

    def train(self, results: list[weakref.ref[Any]] | None = None) -> Iterator[None]:
        """One cell, and the next."""
        while (cell := self.run.next()) is not None:
            history = [made_up_epoch(epoch) for epoch in (1, 2)]
            self.run.report(cell.id, history)
            ended = Result(history=history, train_seconds=1.0, samples_seen=2, val_error=1.0)
            ended |= {"test_error": 2.0, "lam_histogram": [1] * 20, "epochs": 2}
            if results is not None:
                results.append(weakref.ref(ended))
            self.run.end(cell.id, "finished", ended, None, {"device": "cpu"})
            yield


class Result(dict[str, Any]):
    """A dictionary that can be watched."""


def made_up_epoch(epoch: int) -> dict[str, float]:
    told = {"train_seconds": 0.5 * epoch, "samples_seen": float(epoch), "val_error": 1.0}
    return {"epoch": float(epoch), "train_loss": 1 / epoch, **told}


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where MLflow's tables are there already: creating them takes seconds."""
    folder = tmp_path_factory.mktemp("empty")
    with StudyTracker(None, output=folder, experiment="t", study_id="t", params={}):
        return folder


@pytest.fixture
def output(empty: Path, tmp_path: Path) -> Path:
    shutil.copy(empty / "mlflow.db", tmp_path)
    return tmp_path


def test_every_cell_takes_the_same_few_calls(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = 12
    with (study := Study(output, cells)).tracker as tracker:
        assert study.store.loaded == cells  # looked for once, at the beginning
        client = CountingClient(tracker._client)
        monkeypatch.setattr(tracker, "_client", client)
        for _ in study.train():
            assert client.calls == ["create_run", "log_batch", "set_terminated"]
            client.calls.clear()
        assert study.store.loaded == cells
    # All that grows with the cells is one search at the end, of a thousand runs a page.
    assert client.calls == ["search_runs", "set_terminated"]
    assert len(study.run.records) == cells


def test_nothing_of_a_cell_stays_in_the_driver(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results: list[weakref.ref[Any]] = []
    study = Study(output, 20)
    with study.tracker as tracker, monkeypatch.context() as silent:
        silent.setattr(tracker, "_client", Silent())
        for _ in study.train(results):
            pass
        gc.collect()
        assert not tracker._runs
    assert [result() for result in results] == [None] * 20


def test_results_are_read_again_for_the_report(output: Path) -> None:
    with (study := Study(output, 3)).tracker:
        for _ in study.train():
            pass
        first, again = study.run.records, study.run.records
    assert [r.to_dict() for r in first] == [r.to_dict() for r in again]
    assert [r.cell.seed for r in sorted(first, key=lambda r: r.cell.seed)] == [0, 1, 2]
    assert {r.result["test_error"] for r in first} == {2.0}
    assert first[0] is not again[0]


def test_no_thread_of_mlflow_changes_the_environment() -> None:
    """Of eight studies that began at once, one met the KeyError of its telemetry."""
    script = "import hpo.tracking.tracker, os, sys; assert 'mlflow' not in sys.modules; "
    script += "print(os.environ['MLFLOW_DISABLE_TELEMETRY'])"
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_DISABLE_TELEMETRY"}
    told = subprocess.check_output([sys.executable, "-c", script], env=environment, text=True)
    assert told.strip() == "true"


# The meter


@pytest.mark.parametrize(
    ("x", "y"),
    [([0, 1, 2, 3], [5.0, 5.0, 5.0, 5.0]), ([1, 2, 5], [1.0, 4.0, 2.0]), (range(9), range(9))],
)
def test_the_slope_is_that_of_least_squares(x: Sequence[float], y: Sequence[float]) -> None:
    assert slope(x, y) == pytest.approx(np.polyfit(list(x), list(y), 1)[0], abs=1e-12)


def test_two_points_have_no_slope() -> None:
    assert np.isnan(slope([1, 2], [1, 2]))


def test_the_slope_leaves_the_beginning_out() -> None:
    loading = [Sample(0, 0, 0, 0, 0), Sample(50, 1, 900, 0, 0), Sample(150, 1, 1000, 0, 0)]
    steady = [Sample(cells, 1, 2000 + 3 * cells, 0, 0) for cells in (200, 400, 700, 1000)]
    assert Usage((*loading, *steady)).bytes_per_cell == pytest.approx(3)


def test_memory_in_use_grows_with_what_is_held() -> None:
    before = resident_bytes()
    held = bytearray(b"x") * (64 * 2**20)
    assert 60 * 2**20 < resident_bytes() - before < 80 * 2**20
    del held


def test_samples_are_taken_of_cells_trained_here_and_kept(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (study := Study(output, 30)).tracker:
        for _ in study.train():
            pass
    assert stored_usage(output) is None  # not by the ordinary writer
    more = 2 * EVERY + 7
    study = Study(output, 30 + more, MeteredTracker)
    with study.tracker as tracker, monkeypatch.context() as silent:
        silent.setattr(tracker, "_client", Silent())
        for _ in study.train():
            pass
        tracker.summarise([])
    usage = stored_usage(output)
    assert usage is not None
    assert [sample.cells for sample in usage.samples] == [0, EVERY, 2 * EVERY, more]
    assert usage.end.cells == more
    assert 0 < usage.end.store < usage.end.seconds
    assert usage.end.processor > 0
    assert [s.seconds for s in usage.samples] == sorted(s.seconds for s in usage.samples)
    assert Usage.from_dict(json.loads((output / "load-usage.json").read_text())) == usage
    forget_usage(output)
    assert stored_usage(output) is None

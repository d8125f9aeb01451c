"""What a cell takes of a study: the same for the first and the last, and nothing stays."""

from __future__ import annotations

import gc
import io
import itertools
import json
import mmap
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from core.policies import NoMix
from core.training.config import TrainingConfig
from hpo.bench.load import run
from hpo.bench.load.driver import EVERY, ROWS, STUDY, USAGE, MeteredTracker, resident_bytes
from hpo.bench.load.run import is_whole, parse, study_flags, to_markdown, usage
from hpo.cells.record import CellRecord
from hpo.cells.store import CellStore
from hpo.command_line import parse as parse_study
from hpo.run.data import prepare
from hpo.search.protocol import SearchSettings
from hpo.study.plan import Plan
from hpo.study.progress import Progress
from hpo.study.study_run import StudyRun
from hpo.tracking.tracker import StudyTracker
from mlflow import MlflowClient
from tests.support.results import result

BASE = TrainingConfig("digits", "digits_cnn", NoMix(), epochs=2)


class CountingStore(CellStore):
    """Counts the readings of records."""

    loaded = 0

    def load(self, cell_id: str) -> CellRecord | None:
        self.loaded += 1
        return super().load(cell_id)


def count_calls(patch: pytest.MonkeyPatch) -> list[str]:
    """Have every client of MLflow note in this list what it is asked to do."""
    calls: list[str] = []
    for name, method in vars(MlflowClient).items():
        if name.startswith("_") or not callable(method):
            continue

        def call(*arguments: Any, _name: str = name, _method: Any = method, **named: Any) -> Any:
            calls.append(_name)
            return _method(*arguments, **named)

        patch.setattr(MlflowClient, name, call)
    return calls


def silence(patch: pytest.MonkeyPatch) -> None:
    """Have every client of MLflow take everything and keep nothing."""
    numbers = itertools.count()

    def create_run(*_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(info=SimpleNamespace(run_id=f"{next(numbers)}"))

    patch.setattr(MlflowClient, "create_run", create_run)
    for name in ("log_batch", "set_terminated"):
        patch.setattr(MlflowClient, name, lambda *_, **__: None)


class Study:
    """A study of so many cells whose trainings are made up."""

    def __init__(self, output: Path, cells: int, kind: type[StudyTracker] = StudyTracker):
        self.tracker = kind(None, output=output, experiment="t", study_id="t", params={})
        self.store = CountingStore(output)
        plan = Plan("t", ROWS, ["digits"], range(cells), {"digits": BASE}, SearchSettings())
        progress = Progress(io.StringIO())
        self.run = StudyRun(plan, self.store, self.tracker, progress, {"digits": "d"})
        self.results: list[weakref.ref[Any]] = []

    def train(self) -> Iterator[None]:
        """Trains one cell, and the next."""
        while (cell := self.run.next()) is not None:
            history = [
                {"epoch": e, "train_loss": 1 / e, "train_seconds": 0.5 * e, "samples_seen": e}
                for e in (1.0, 2.0)
            ]
            self.run.report(cell.id, history)
            ended = result(
                history=history, train_seconds=1.0, samples_seen=2, test_error=2.0, epochs=2
            )
            self.results.append(weakref.ref(ended))
            self.run.end(cell.id, "finished", ended, None, {"device": "cpu"})
            yield


def test_every_cell_takes_the_same_few_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = 12
    with (study := Study(tmp_path, cells)).tracker:
        assert study.store.loaded == cells  # looked for once, at the beginning
        calls = count_calls(monkeypatch)
        for _ in study.train():
            assert calls == ["create_run", "log_batch", "set_terminated"]
            calls.clear()
        assert study.store.loaded == cells
    # All that grows with the cells is one search at the end, of a thousand runs a page.
    assert calls == ["search_runs", "set_terminated"]
    assert len(study.run.records) == cells


def test_nothing_of_a_cell_stays_in_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results are read again for the report."""
    study = Study(tmp_path, 20)
    with study.tracker, monkeypatch.context() as silent:
        silence(silent)
        for _ in study.train():
            pass
        gc.collect()
    assert [seen() for seen in study.results] == [None] * 20
    assert sorted(record.cell.seed for record in study.run.records) == [*range(20)]
    assert {record.trained.test_error for record in study.run.records} == {2.0}


def test_no_thread_of_mlflow_changes_the_environment() -> None:
    """Of eight studies that began at once, one met the KeyError of its telemetry."""
    script = "import hpo.tracking.tracker, os, sys; assert 'mlflow' not in sys.modules; "
    script += "print(os.environ['MLFLOW_DISABLE_TELEMETRY'])"
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_DISABLE_TELEMETRY"}
    shown = subprocess.check_output([sys.executable, "-c", script], env=environment, text=True)
    assert shown.strip() == "true"


def test_samples_are_taken_of_cells_trained_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (study := Study(tmp_path, 30)).tracker:
        for _ in study.train():
            pass
    assert not (tmp_path / USAGE).exists()  # the ordinary writer takes none
    more = 2 * EVERY + 7
    study = Study(tmp_path, 30 + more, MeteredTracker)
    with study.tracker as tracker, monkeypatch.context() as silent:
        silence(silent)
        for _ in study.train():
            pass
        tracker.summarise([])
    samples = run._samples(tmp_path)
    assert samples["cells"].tolist() == [0, EVERY, 2 * EVERY, more]
    assert samples["seconds"].is_monotonic_increasing
    last = samples.iloc[-1]
    assert 0 < last["mlflow_seconds"] < last["seconds"]
    assert last["driver_cpu_seconds"] > 0


def test_memory_in_use_grows_with_what_is_held() -> None:
    before = resident_bytes()
    # Of the system itself: malloc may hold as much that a training freed.
    with mmap.mmap(-1, 64 * 2**20) as block:
        block.write(b"x" * len(block))
        assert 60 * 2**20 < resident_bytes() - before < 80 * 2**20


def samples(cells: list[int], memory: list[float]) -> pd.DataFrame:
    """Half a second a cell, 60 ms of CPU, 20 ms in the MLflow writer."""
    count = pd.Series(cells, dtype=float)
    columns = {"seconds": 0.5, "driver_cpu_seconds": 0.06, "mlflow_seconds": 0.02}
    each = {name: count * seconds for name, seconds in columns.items()}
    return pd.DataFrame({"cells": count, "memory": memory, **each})


def test_what_a_cell_takes() -> None:
    """100 s of two workers are 1 s a cell. The slope leaves out the first fifth, which loads."""
    counts = [0, 20, 40, 100, 200]
    memory = [0, 900, *(2000 + 3 * cells for cells in counts[2:])]
    measured = usage(samples(counts, memory), workers=2, alone=0.1)
    assert measured["overhead_seconds_cell"] == pytest.approx(0.9)
    assert measured["driver_cpu_seconds_cell"] == pytest.approx(0.06)
    assert measured["mlflow_seconds_cell"] == pytest.approx(0.02)
    assert measured["mlflow_share"] == pytest.approx(0.04)
    assert measured["memory_cell"] == pytest.approx(3)
    assert (measured["memory_start"], measured["memory_end"]) == (0, 2600)
    few = usage(samples([0, 3], [0, 10]), workers=2, alone=0.1)
    assert pd.isna(few["memory_cell"])  # two points are no slope


CALM: dict[str, float | str] = {
    "study": "load-1", "cells": 200, "finished": 200, "lost": 0, "mlflow_runs": 200,
    "duplicated_runs": 0, "runs_not_ended": 0, "measured_cells": 200,
}  # fmt: skip


@pytest.mark.parametrize(
    "fault",
    [
        {"finished": 199},
        {"mlflow_runs": 199},
        {"mlflow_runs": 201, "duplicated_runs": 1},
        {"runs_not_ended": 1},
    ],
)
def test_whatever_is_missing_or_too_many_is_noticed(fault: dict[str, float | str]) -> None:
    assert is_whole(CALM)
    assert not is_whole(CALM | fault)
    unmeasured = {name: value for name, value in CALM.items() if name != "measured_cells"}
    assert not is_whole(unmeasured)
    lines = to_markdown([CALM | fault, unmeasured | {"study": "load-2"}]).splitlines()
    assert [cell.strip() for cell in lines[0].split("|")] == ["", "study", "load-1", "load-2", ""]
    cells = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in lines[2:9]}
    assert {name: cells[name] for name in fault} == {name: f"{n}" for name, n in fault.items()}


def test_studies_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "cores", lambda: 6)
    assert parse("", []).workers == 6
    assert parse("", ["--concurrent", "2"]).workers == 3
    assert parse("", ["--concurrent", "8"]).workers == 1
    assert parse("", ["--concurrent", "8", "--workers", "2"]).workers == 2


@pytest.mark.parametrize("flag", ["--cells", "--concurrent", "--workers", "--epochs"])
def test_nothing_to_do_is_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("", [flag, "0"])
    assert f"{flag} must be at least 1, got 0" in capsys.readouterr().err


def test_what_was_measured_with_other_settings_is_not_shown_for_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[str] = []

    def measured(options: Any, folders: Any, uri: Any) -> None:
        for folder in folders:
            folder.mkdir(exist_ok=True)
            (folder / USAGE).write_text(json.dumps({"samples": []}))
            begun.append(folder.name)

    monkeypatch.setattr(run, "_run_studies", measured)
    monkeypatch.setattr(run, "_seconds_alone", lambda _: 1.0)
    monkeypatch.setattr(run, "runs_of_study", lambda *_: [])
    flags = ["--cells", "4", "--workers", "1", "--output", str(tmp_path)]
    assert run.run_load("", flags) == run.INCOMPLETE
    for other in (["--workers", "2"], ["--cells", "6"], ["--epochs", "3"], ["--concurrent", "2"]):
        capsys.readouterr()
        assert run.run_load("", [*flags, *other]) == run.UNUSABLE
        assert f"was measured with {other[0]} " in capsys.readouterr().err
    assert begun == ["load-1"]
    assert run.run_load("", [*flags, "--workers", "2", "--fresh"]) == run.INCOMPLETE
    assert run.run_load("", [*flags, "--workers", "2"]) == run.INCOMPLETE
    assert begun == ["load-1", "load-1"]


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf"])
def test_a_trial_sleeps_for_a_time(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("", ["--search", "1", "--asleep", seconds])
    assert "--asleep must be finite and at least 0" in capsys.readouterr().err


def test_bare_loops_are_as_many_at_a_time_as_workers_and_their_mean_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tests/system/test_load.py` runs a real one."""
    begun: list[list[str]] = []

    class Loop:
        returncode = 0

        def __init__(self, command: list[str], **_: Any):
            begun.append(command)
            self.printed = f"{len(begun)}.5\n"

        def communicate(self) -> tuple[str, None]:
            assert len(begun) == 6, "all have begun before one is waited for"
            return self.printed, None

    monkeypatch.setattr(run.subprocess, "Popen", Loop)
    flags = ["--concurrent", "3", "--workers", "2", "--output", str(tmp_path)]
    assert run._seconds_alone(parse("", flags)) == 4.0
    assert {command[3] for command in begun} == {"alone"}
    monkeypatch.setattr(Loop, "returncode", 1)
    begun.clear()
    with pytest.raises(OSError, match="bare loop failed"):
        run._seconds_alone(parse("", flags))


def test_the_cells_are_tiny_and_as_many_as_asked_for(tmp_path: Path) -> None:
    options = parse("", ["--cells", "7", "--epochs", "3", "--output", str(tmp_path)])
    plan, _ = prepare(STUDY, ROWS, parse_study(STUDY, "", study_flags(options, tmp_path, 7)))
    cells = plan.fixed_cells()
    assert len({cell.id for cell in cells}) == len(cells) == plan.size == 7
    assert {(c.training.epochs, c.training.train_size) for c in cells} == {(3, 20)}

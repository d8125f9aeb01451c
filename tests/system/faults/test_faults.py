"""Faults of every kind: the study that met them ends as a calm one, with one ended run a cell."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import pickle
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from core.training import checkpoint
from hpo.run import CRASHED, INTERRUPTED, UNUSABLE
from mlflow import MlflowClient
from tests.support.hostile import Hostile
from tests.support.scripts import ROOT
from tests.support.stores import tracked_runs
from tests.system.faults.bench import Bench

HERE = Path(__file__).parent


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "epochs"), [(signal.SIGTERM, 1), (signal.SIGINT, 5)])
def test_a_signal_ends_it_and_it_goes_on(
    number: signal.Signals,
    epochs: int,
    output: Path,
    calm: Path,
    bench: Bench,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fault = bench.at(epochs, lambda: os.kill(os.getpid(), number))
    assert bench.study(output, fault=fault) == INTERRUPTED
    assert "run the same command again, without --fresh" in capsys.readouterr().err
    statuses = bench.assert_tracked(output, over=False)
    finished = epochs // bench.epochs
    assert sorted(statuses.values()) == ["FINISHED"] * finished + ["KILLED"] * 2  # cell and study
    assert bench.study(output) == 0
    assert bench.trained == bench.cells * bench.epochs - epochs  # nothing twice
    bench.assert_as_calm(output, calm)


def test_ctrl_c_pressed_twice_leaves_what_the_next_time_ends(
    output: Path, calm: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first() -> None:
        monkeypatch.setattr(MlflowClient, "set_terminated", lambda *_, **__: bench.interrupt())
        raise KeyboardInterrupt

    assert bench.study(output, fault=bench.at(4, first)) == INTERRUPTED
    monkeypatch.undo()
    assert bench.study(output) == 0
    assert bench.trained == bench.cells * bench.epochs - 4
    bench.assert_as_calm(output, calm)


def test_a_driver_that_is_killed_at_any_moment_loses_nothing(
    calm: Path, bench: Bench, tmp_path: Path
) -> None:
    """At moments spread over a study's life.

    It trains by itself: a kill cuts short a checkpoint too, a result, the store's first tables.
    `test_table2.py` kills drivers whose workers are Ray's.
    """
    context = multiprocessing.get_context("forkserver")
    imports = ["hpo.run.work", "hpo.cluster.runner", "matplotlib.backends.backend_agg", "pytest"]
    imports += ["mlflow.store.tracking.sqlalchemy_store", "sklearn.datasets", "scipy.stats"]
    context.set_forkserver_preload([*imports, "tests.system.faults.bench"])
    script = str(HERE / "driver.py")

    def start(output: Path) -> Any:
        with pytest.MonkeyPatch.context() as patch:  # the child takes it over
            patch.setattr(sys, "argv", [script, str(output)])
            driver = context.Process(target=runpy.run_path, args=(script, None, "__main__"))
            driver.start()
        return driver

    first = context.Process(target=int)  # waits for the imports
    first.start()
    first.join()
    out = tmp_path / "out"
    ended = []
    for pattern, number in (
        ("mlflow.db", 1),
        ("cells/*/checkpoint.pt", 1),
        ("cells/*/result.json", 3),
    ):
        driver = start(out)
        while driver.is_alive() and len(list(out.glob(pattern))) < number:
            time.sleep(0.005)
        driver.kill()
        driver.join()
        ended.append(driver.exitcode)
    assert set(ended) <= {0, -signal.SIGKILL}, "it refused to go on"
    assert ended.count(-signal.SIGKILL) >= 2
    driver = start(out)
    driver.join()
    assert driver.exitcode == 0
    bench.assert_as_calm(out, calm)


def test_a_checkpoint_that_was_cut_short_costs_an_epoch(
    output: Path, calm: Path, bench: Bench
) -> None:
    def cut() -> None:
        [newest] = output.glob("cells/*/checkpoint.pt")
        newest.write_bytes(newest.read_bytes()[:1000])
        assert newest.with_name("checkpoint.previous.pt").exists()
        raise KeyboardInterrupt

    assert bench.study(output, fault=bench.at(2, cut)) == INTERRUPTED
    with pytest.warns(UserWarning, match=r"checkpoint\.pt cannot be read"):
        assert bench.study(output) == 0
    assert bench.trained == bench.cells * bench.epochs - 1  # the first epoch is in the one before
    bench.assert_as_calm(output, calm)


def in_a_process(
    prefix: list[str], script: str, *arguments: Path
) -> subprocess.CompletedProcess[str]:
    """Runs a script of this folder, behind a command that changes what it may do."""
    return subprocess.run(
        [*prefix, sys.executable, HERE / script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


UNSHARE = ["unshare", "--mount", "--user", "--map-root-user"]


def can_mount() -> bool:
    """Returns whether a process here may have a small disk of its own."""
    if shutil.which("unshare") is None:
        return False
    mount = ["sh", "-c", 'mount -t tmpfs none /mnt && "$0" -c pass', sys.executable]
    return subprocess.run([*UNSHARE, *mount], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="may not mount a small disk (user namespaces)")
def test_a_disk_that_is_full_costs_what_was_not_written(
    calm: Path, empty_store: Path, tmp_path: Path
) -> None:
    """A real one, of a process of its own: full for the store too, for a result, for the report."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = in_a_process(UNSHARE, "full_disk.py", disk, calm, empty_store)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("as calm") == 3


def test_a_disk_that_is_full_for_a_checkpoint_costs_a_cell_until_the_next_time(
    output: Path, calm: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save
    calls = itertools.count(1)

    def full(state: Any, file: Any) -> None:
        if next(calls) == 5:  # the second epoch of the second cell
            file.write(b"half of it")
            with open("/dev/full", "wb", buffering=0) as device:
                device.write(b"the rest")
        save(state, file)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.torch, "save", full)
        assert bench.study(output) == CRASHED
    assert len(list(output.glob("cells/*/result.json"))) == bench.cells - 1
    bench.assert_tracked(output, over=False)
    assert bench.study(output) == 0
    assert bench.told == bench.epochs  # those before its checkpoint told again, and those after it
    assert bench.trained == bench.epochs - 1
    bench.assert_as_calm(output, calm)


def test_a_second_study_on_the_folder_refuses_and_disturbs_nothing(
    output: Path, calm: Path, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    def second() -> None:
        fault, stated, trained = bench._fault, bench.told, bench.trained
        assert bench.study(output) == UNUSABLE
        assert f"another study (process {os.getpid()}) is running" in capsys.readouterr().err
        bench._fault, bench.told, bench.trained = fault, stated, trained

    assert bench.study(output, fault=bench.at(4, second)) == 0
    assert bench.trained == bench.cells * bench.epochs
    bench.assert_as_calm(output, calm)


def test_a_clock_that_goes_back(
    output: Path, calm: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = time.time_ns()
    gone = itertools.count()
    monkeypatch.setattr(time, "time_ns", lambda: start - 60_000_000_000 * next(gone))
    monkeypatch.setattr(time, "time", lambda: time.time_ns() / 1e9)
    assert bench.study(output, fault=bench.at(5, bench.interrupt)) == INTERRUPTED
    assert bench.study(output) == 0
    monkeypatch.undo()
    bench.assert_as_calm(output, calm)
    frame = pd.read_csv(output / "faults.csv")
    assert (frame.filter(like="_seconds") >= 0).all(axis=None)
    runs = tracked_runs(output)
    assert all(run.info.start_time <= run.info.end_time for run in runs)
    metrics = {str(run.info.run_name): run.data.metrics for run in runs}
    assert all(v >= 0 for m in metrics.values() for k, v in m.items() if k.endswith("_seconds"))
    shown = {name: m["mean_error"] for name, m in metrics.items() if "mean_error" in m}
    expected = {
        f"summary {m} digits": e for m, e in zip(frame.method, frame.mean_error, strict=True)
    }
    assert shown == pytest.approx(expected)


# What happens to a folder between two runs of the command


@pytest.fixture
def folder(calm: Path, tmp_path: Path) -> Path:
    """Returns a copy of what a calm study left."""
    return Path(shutil.copytree(calm, tmp_path / "folder"))


def one_record(folder: Path) -> Path:
    return min(folder.glob("cells/*/result.json"))


def error_of(bench: Bench, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Returns the one line with which a study refuses to run."""
    capsys.readouterr()
    assert bench.study(folder) == UNUSABLE
    [line] = [line for line in capsys.readouterr().err.splitlines() if "faults: error: " in line]
    assert bench.trained == 0
    return line


def test_a_result_or_a_store_that_was_deleted_is_made_again(
    folder: Path, calm: Path, bench: Bench
) -> None:
    one_record(folder).unlink()
    assert bench.study(folder) == 0
    assert bench.trained == bench.epochs
    bench.assert_as_calm(folder, calm)
    again = Path(shutil.copytree(folder, folder.with_name("again")))
    (again / "mlflow.db").unlink()
    assert bench.study(again) == 0
    assert bench.trained == 0
    bench.assert_as_calm(again, calm)


def test_a_store_that_was_cut_short_is_named_with_the_way_out(
    folder: Path, calm: Path, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    database = folder / "mlflow.db"
    database.write_bytes(database.read_bytes()[:50_000])
    message = error_of(bench, folder, capsys)
    assert f"{database} cannot be used" in message
    assert "Move that file away and run the same command again" in message
    database.rename(folder / "mlflow.db.damaged")
    again = Path(shutil.copytree(folder, folder.with_name("again")))  # MLflow has the other open
    assert bench.study(again) == 0
    assert bench.trained == 0
    bench.assert_as_calm(again, calm)


def test_a_result_that_cannot_be_read_is_named_with_the_way_out(
    folder: Path, calm: Path, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """`tests/hpo/cells/test_cells.py` damages it in other ways."""
    path = one_record(folder)
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    message = error_of(bench, folder, capsys)
    assert f"{path} is not a readable result" in message
    assert f"delete {path.parent} to train that cell again" in message
    shutil.rmtree(path.parent)
    assert bench.study(folder) == 0
    assert bench.trained == bench.epochs
    bench.assert_as_calm(folder, calm)


def lose_store(bench: Bench, output: Path) -> None:
    """Runs a study whose store goes away after four epochs and stays away."""

    def away(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    with pytest.MonkeyPatch.context() as patch:

        def cut() -> None:
            for name in ("create_run", "log_batch", "set_terminated", "update_run"):
                patch.setattr(MlflowClient, name, away)

        assert bench.study(output, fault=bench.at(4, cut)) == UNUSABLE


def test_what_mlflow_misses_is_sent_before_a_study_begins_afresh(
    output: Path, calm: Path, bench: Bench
) -> None:
    lose_store(bench, output)
    before = json.loads((output / "studies.json").read_text())["faults"]
    assert bench.study(output, "--fresh") == 0
    bench.assert_as_calm(output, calm)
    runs = [run for run in tracked_runs(output) if run.data.tags["study_id"] == before]
    kinds = Counter((run.data.tags["kind"], run.info.status) for run in runs)
    assert kinds["cell", "FINISHED"] == bench.cells
    assert kinds["summary", "FINISHED"] == 2
    assert sum(kinds.values()) == bench.cells + 3


def test_killed_while_it_writes_the_report_it_leaves_the_old_one(
    folder: Path, calm: Path, bench: Bench
) -> None:
    """Then as after SIGKILL: files aside, half written, that nobody ends."""
    report = folder / "faults.csv"
    report.write_text("of the last time\n")
    one_record(folder).unlink()
    replace = os.replace

    def cut(aside: Any, path: Any) -> None:
        if Path(path) == report:
            raise KeyboardInterrupt
        replace(aside, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", cut)
        assert bench.study(folder) == INTERRUPTED
    assert bench.trained == bench.epochs
    assert report.read_text() == "of the last time\n"
    for name in ("faults.csv", "faults.md", "faults.png", "studies.json"):
        (folder / f".{name}.4242").write_text("half")
    aside = one_record(folder).with_name(".result.json.4242")
    aside.write_text("{")
    (folder / ".mine.2024").write_text("of the user")
    assert bench.study(folder) == 0
    assert bench.trained == 0
    bench.assert_as_calm(folder, calm)
    assert not list(folder.glob(".studies.json.*"))
    assert (folder / ".mine.2024").exists()


def test_a_folder_that_became_read_only_is_named(folder: Path, calm: Path, bench: Bench) -> None:
    # Root may write everywhere, unless that is taken from it.
    unprivileged = ["setpriv", "--bounding-set", "-dac_override"] if os.geteuid() == 0 else []
    folder.chmod(0o555)
    try:
        done = in_a_process(unprivileged, "driver.py", folder)
    finally:
        folder.chmod(0o755)
    assert done.returncode == UNUSABLE, done.stderr
    assert f"{folder}/mlflow.db failed" in done.stderr
    assert "Check the path or address, the permissions" in done.stderr
    assert bench.study(folder) == 0
    bench.assert_as_calm(folder, calm)


def test_nothing_in_a_strangers_folder_is_run(
    output: Path, calm: Path, bench: Bench, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    hostile = pickle.dumps(Hostile(mark), protocol=2)  # of others torch says that it may not work
    torch.save({"config": Hostile(mark)}, tmp_path / "hostile.pt")

    def plant() -> None:
        [newest] = output.glob("cells/*/checkpoint.pt")
        shutil.copy(tmp_path / "hostile.pt", newest)
        newest.with_name("checkpoint.previous.pt").write_bytes(hostile)
        raise KeyboardInterrupt

    assert bench.study(output, fault=bench.at(2, plant)) == INTERRUPTED
    scratch = output / ".ray-stranger" / "faults"
    scratch.mkdir(parents=True)
    for name in ("tuner.pkl", "trainable.pkl", "searcher-state-1.pkl", "experiment_state-1.json"):
        (scratch / name).write_bytes(hostile)
    (output / "mlflow-pending-local-faults.json").write_bytes(hostile)
    with pytest.warns(UserWarning, match="cannot be read"):
        assert bench.study(output) == 0
    assert not mark.exists()
    bench.assert_as_calm(output, calm)
    with pytest.raises(pickle.UnpicklingError):  # and it would have, in other hands
        torch.load(tmp_path / "hostile.pt", weights_only=True)
    pickle.loads(hostile)
    assert mark.exists()

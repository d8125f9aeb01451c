"""Table II as a user runs it: a process with flags, its files, its exit status, its messages."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from core.policies import LearnedConfig
from hpo.cells.store import CellStore
from hpo.cluster.runner import run_on_ray
from studies import table2
from tests.support.processes import command_of, family, listening, workers_of
from tests.support.scripts import interrupt_when, kill_when
from tests.support.stores import results_of, tracked_runs
from tests.system.faults.bench import Bench

# Long enough to be killed in the middle, short enough for a test.
SMALL = ["--preset", "smoke", "--seeds", "2", "--search-trials", "4", "--epochs", "6"]
KEYS = "none,beta-1,beta-search,metamixup,frozen,beta-search+meta"
STUDY = ["table2", *SMALL, "--rows", KEYS]


def cells_tracked(output: Path) -> dict[str, str]:
    """Returns the status of each training's run, by the cell's id; all runs have ended, one a
    training."""
    runs = tracked_runs(output)
    kinds = [run.data.tags["kind"] for run in runs]
    assert kinds.count("study") == 1
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
    cells = {r.data.tags["cell_id"]: r.info.status for r in runs if r.data.tags["kind"] == "cell"}
    assert len(cells) == kinds.count("cell")
    return cells


def test_the_default_reading_has_its_controls_and_the_papers_has_none() -> None:
    rows = {row.row.key: row for row in table2.rows()}
    assert len(rows) == len(table2.rows()) == 14
    assert list(rows)[-4:] == ["metamixup-paper", "metamixup", "placebo", "frozen"]
    controlled = {key: row.row.control_of for key, row in rows.items() if row.row.control_of}
    assert controlled == {"placebo": "metamixup", "frozen": "metamixup"}
    # Results of earlier versions are found by these.
    for key, policy in {"placebo": LearnedConfig(permute=True), "frozen": None}.items():
        assert rows[key].policy == policy
        assert rows[key].training == {}
    assert rows["frozen"].frozen_from == "metamixup"


class Worker:
    """The only one of a study that runs in a child of this process.

    Attributes:
        addresses: where the study's processes, Ray's among them, accepted connections.
    """

    def __init__(self, output: Path):
        self._output = output
        self._ended = 0
        """Cells by the time that it was killed."""
        self.addresses: set[str] = set()

    def replaced(self) -> bool:
        """Lets it stand still for a second and kills it; says whether another has ended a cell."""
        ended = len(results_of(self._output))
        if self._ended or sys.platform != "linux":
            return ended >= self._ended + 2  # one of them may be of the worker that was killed
        if ended and (workers := workers_of(os.getpid())):
            driver = next(p for p in family(os.getpid()) if "table2.py" in command_of(p))
            self.addresses = listening(driver)
            os.kill(workers[0], signal.SIGSTOP)
            time.sleep(1)
            os.kill(workers[0], signal.SIGCONT)
            time.sleep(0.1)
            os.kill(workers[0], signal.SIGKILL)
            self._ended = len(results_of(self._output))
        return False


@pytest.fixture(scope="module")
def resumed(
    tmp_path_factory: pytest.TempPathFactory, without_ray_in_module: None, empty_store: Path
) -> Path:
    """Returns the output of a study under Ray whose worker was stopped and killed, which was killed
    itself in the search, interrupted among the trainings after it, and ended here, without Ray.

    `tests/system/faults` kills drivers at other moments, without Ray.
    """
    folder = tmp_path_factory.mktemp("resumed")
    out = folder / "out"
    out.mkdir()
    shutil.copy(empty_store, out / "mlflow.db")
    study = [*STUDY, "--output", out]
    worker = Worker(out)
    said = kill_when(worker.replaced, *study, "--workers", "1", cwd=folder)
    assert "its worker died" not in said
    (folder / "addresses").write_text("\n".join(worker.addresses))
    interrupt_when(lambda: len(results_of(out)) >= 10, *study, "--workers", "1", cwd=folder)
    assert "RUNNING" not in {run.info.status for run in tracked_runs(out)}
    before = results_of(out)
    with redirect_stdout(io.StringIO()) as printed:
        assert table2.main([*STUDY[1:], "--output", str(out)]) == 0
    (out / "stdout.txt").write_text(printed.getvalue())
    assert before.items() <= results_of(out).items()
    return out


@pytest.mark.slow
def test_all_rows_files_and_runs_are_there(resumed: Path) -> None:
    frame = pd.read_csv(resumed / "table2.csv")
    columns = ["dataset", "method", "setting", "n_seeds", "mean_error", "ci_low", "ci_high"]
    columns += ["paper_error", "train_seconds", "samples_seen"]
    assert list(frame.columns[: len(columns)]) == columns
    assert list(frame["method"]) == KEYS.split(",")
    assert (frame["n_seeds"] == 2).all()
    assert (resumed / "table2.png").stat().st_size > 10_000
    text = (resumed / "stdout.txt").read_text()
    for row in (resumed / "table2.md").read_text().splitlines():
        if row.startswith("|"):
            assert row in text
    assert "mlflow ui --backend-store-uri" in text
    assert "## Does learning pay?" in text
    controls = pd.read_csv(resumed / "table2-controls.csv").set_index("control")
    assert controls["control_method"].isna().to_dict() == {
        "placebo": True, "frozen": False, "best beta": False,
    }  # fmt: skip
    cells = cells_tracked(resumed)
    assert len(cells) == 6 * 2 + 4
    # KILLED are the trials that the search stopped early, and nothing else.
    pruned = {r.cell.id for r in CellStore(resumed).records() if r.status == "pruned"}
    assert {cell for cell, status in cells.items() if status == "KILLED"} == pruned
    assert [run.data.tags["kind"] for run in tracked_runs(resumed)].count("summary") == 6
    assert not list(resumed.rglob("*.pt"))
    assert not list(resumed.glob(".ray-*"))


@pytest.mark.slow
def test_run_again_it_trains_nothing_and_says_the_same(
    resumed: Path, capsys: pytest.CaptureFixture[str], nothing_drawn: None
) -> None:
    stored, before = results_of(resumed), pd.read_csv(resumed / "table2.csv")
    number_of_runs = len(tracked_runs(resumed))
    assert table2.main([*STUDY[1:], "--output", str(resumed)]) == 0
    assert results_of(resumed) == stored
    pd.testing.assert_frame_equal(pd.read_csv(resumed / "table2.csv"), before)
    assert len(tracked_runs(resumed)) == number_of_runs
    assert "16 kept from before" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_and_interrupted_at_any_stage_it_ends_as_undisturbed_and_without_ray(
    resumed: Path, tmp_path: Path, nothing_drawn: None
) -> None:
    assert table2.main([*STUDY[1:], "--output", str(tmp_path)]) == 0
    Bench.assert_as_calm(resumed, tmp_path, study="table2")
    assert cells_tracked(resumed) == cells_tracked(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nothing_of_a_ray_that_was_started_is_reached_from_elsewhere(resumed: Path) -> None:
    addresses = (resumed.parent / "addresses").read_text().split()
    assert len(addresses) >= 3
    hosts = {address.rpartition(":")[0] for address in addresses}
    # 127.0.0.1, as such and in IPv6, and ::1
    ours = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert hosts <= ours


def image_tree(root: Path, *, per_class: int = 30, size: int = 16) -> Path:
    pixels = np.random.default_rng(0)
    for part, count in (("train", per_class), ("test", 5)):
        for name in ("cat", "dog"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                image = pixels.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(image).save(folder / f"{i}.png")
    return root


def test_a_folder_of_ones_own_images(tmp_path: Path, nothing_drawn: None) -> None:
    tree, out = image_tree(tmp_path / "images"), tmp_path / "out"
    flags = ["--dataset", f"folder:{tree}", "--preset", "smoke", "--seeds", "1"]
    assert table2.main([*flags, "--rows", "none,metamixup", "--output", str(out)]) == 0
    assert list(pd.read_csv(out / "table2.csv")["n_seeds"]) == [1, 1]


def test_bad_input_gives_one_clear_error_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def error(*arguments: str | Path, output: Path = tmp_path / "out") -> str:
        assert table2.main([*map(str, arguments), "--output", str(output)]) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    message = error("--rows", "none,gamma-3")
    assert "gamma-3" in message
    assert "beta-search" in message
    broken = image_tree(tmp_path / "broken")
    file = broken / "train" / "cat" / "7.png"
    file.write_bytes(file.read_bytes()[:100])
    assert "7.png" in error("--dataset", f"folder:{broken}")
    assert "127.0.0.1:9" in error("--tracking-uri", "http://127.0.0.1:9")
    assert not list((tmp_path / "out").glob("cells/*"))
    (tmp_path / "file").write_text("")
    assert "another output folder" in error(output=tmp_path / "file" / "out")
    monkeypatch.setattr("hpo.cluster.runner.run_on_ray", run_on_ray)
    assert "127.0.0.1:9: no Ray" in error("--address", "127.0.0.1:9")
    assert not list((tmp_path / "out").glob("cells/*"))

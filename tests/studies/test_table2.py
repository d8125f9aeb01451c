"""Table II as a user runs it: a process with flags, its files, its exit status, its messages."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from core.policies import LearnedConfig
from hpo.cells.store import CellStore
from studies import table2
from tests.support.scripts import interrupt_when, kill_when, run_script
from tests.support.stores import results_of, tracked_runs

MEASURED = ["train_seconds", "search_seconds"]
# Long enough to be killed in the middle, short enough for a test.
SMALL = ["--preset", "smoke", "--seeds", "2", "--search-trials", "4", "--epochs", "6"]
KEYS = "none,beta-1,beta-search,metamixup,frozen,beta-search+meta"
STUDY = ["table2", *SMALL, "--rows", KEYS]


def table(output: Path) -> pd.DataFrame:
    """Returns the CSV without what a clock measured."""
    return pd.read_csv(output / "table2.csv").drop(columns=MEASURED)


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


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory, without_ray_in_module: None) -> Path:
    """Returns the output of a study under Ray that was killed in the search, interrupted among the
    trainings after it, and ended here, without Ray.

    `tests/system/faults` kills drivers at other moments, without Ray.
    """
    folder = tmp_path_factory.mktemp("resumed")
    out = folder / "out"
    study = [*STUDY, "--output", out]
    kill_when(lambda: len(results_of(out)) >= 2, *study, cwd=folder)
    interrupt_when(lambda: len(results_of(out)) >= 10, *study, cwd=folder)
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
    resumed: Path, capsys: pytest.CaptureFixture[str]
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
    resumed: Path, tmp_path: Path
) -> None:
    assert table2.main([*STUDY[1:], "--output", str(tmp_path)]) == 0
    pd.testing.assert_frame_equal(table(resumed), table(tmp_path), check_exact=True)
    assert cells_tracked(resumed) == cells_tracked(tmp_path)


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


def test_a_folder_of_ones_own_images(tmp_path: Path) -> None:
    tree, out = image_tree(tmp_path / "images"), tmp_path / "out"
    flags = ["--dataset", f"folder:{tree}", "--preset", "smoke", "--seeds", "1"]
    assert table2.main([*flags, "--rows", "none,metamixup", "--output", str(out)]) == 0
    assert list(pd.read_csv(out / "table2.csv")["n_seeds"]) == [1, 1]


def test_bad_input_gives_one_clear_error_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(*arguments: str | Path, output: Path = tmp_path / "out") -> str:
        assert table2.main([*map(str, arguments), "--output", str(output)]) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    message = error("--rows", "none,beta-3")
    assert "beta-3" in message
    assert "beta-search" in message
    broken = image_tree(tmp_path / "broken")
    file = broken / "train" / "cat" / "7.png"
    file.write_bytes(file.read_bytes()[:100])
    assert "7.png" in error("--dataset", f"folder:{broken}")
    assert "127.0.0.1:9" in error("--tracking-uri", "http://127.0.0.1:9")
    assert not list((tmp_path / "out").glob("cells/*"))
    (tmp_path / "file").write_text("")
    assert "another output folder" in error(output=tmp_path / "file" / "out")
    done = run_script("table2", "--address", "127.0.0.1:9", "--output", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "127.0.0.1:9" in done.stderr.strip().splitlines()[-1]
    assert not list((tmp_path / "out").glob("cells/*"))

"""Table II as a user runs it: a process with flags, its files, its exit status, its messages."""

from __future__ import annotations

import gzip
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from core.policies import LearnedConfig
from hpo.cells.store import CellStore
from studies.table2 import rows

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ["train_seconds", "search_seconds"]
# Long enough to be killed in the middle, short enough for a test.
SMALL = ["--preset", "smoke", "--seeds", "2", "--search-trials", "4", "--epochs", "8"]
ROWS = ["--rows", "none,beta-1,fixed-0.5,beta-search,metamixup,frozen,beta-search+meta"]


def table2(*arguments: str | Path, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "studies" / "table2.py"), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def error_of(*arguments: str | Path, cwd: Path) -> str:
    """The one line that a study which cannot run ends with."""
    begun = time.monotonic()
    done = table2(*arguments, cwd=cwd, timeout=60)
    assert time.monotonic() - begun < 45
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def table(output: Path) -> pd.DataFrame:
    """The CSV without what a clock measured."""
    return pd.read_csv(output / "table2.csv").drop(columns=MEASURED)


def runs(output: Path) -> pd.DataFrame:
    """All runs of the default store that are not deleted, one row each."""
    with sqlite3.connect(output / "mlflow.db") as connection:
        frame = pd.read_sql(
            "select r.run_uuid, r.status, t.key, t.value from runs r join tags t "
            "on r.run_uuid = t.run_uuid where r.lifecycle_stage = 'active'",
            connection,
        )
    wide = frame.pivot(index="run_uuid", columns="key", values="value")
    wide["run_status"] = frame.drop_duplicates("run_uuid").set_index("run_uuid")["status"]
    return wide


def test_the_default_reading_has_its_controls_and_the_papers_has_none() -> None:
    table = {row.row.key: row for row in rows()}
    assert len(table) == len(rows()) == 14
    assert list(table)[-4:] == ["metamixup-paper", "metamixup", "placebo", "frozen"]
    controlled = {key: row.row.control_of for key, row in table.items() if row.row.control_of}
    assert controlled == {"placebo": "metamixup", "frozen": "metamixup"}
    # Results of earlier versions are found by these.
    for key, policy in {"placebo": LearnedConfig(permute=True), "frozen": None}.items():
        assert table[key].policy == policy
        assert table[key].training == {}
    assert table["frozen"].frozen_from == "metamixup"


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a study that nobody disturbed."""
    folder = tmp_path_factory.mktemp("calm")
    done = table2(*SMALL, *ROWS, "--output", folder / "out", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    (folder / "out" / "stdout.txt").write_text(done.stdout)
    return folder / "out"


@pytest.mark.slow
def test_all_rows_files_and_runs_are_there(calm: Path) -> None:
    frame = pd.read_csv(calm / "table2.csv")
    columns = ["dataset", "method", "setting", "n_seeds", "mean_error", "ci_low", "ci_high"]
    columns += ["paper_error", "train_seconds", "samples_seen"]
    assert list(frame.columns[: len(columns)]) == columns
    assert list(frame["method"]) == ROWS[1].split(",")
    assert (frame["n_seeds"] == 2).all()
    assert (calm / "table2.png").stat().st_size > 10_000
    text = (calm / "stdout.txt").read_text()
    for row in (calm / "table2.md").read_text().splitlines():
        if row.startswith("|"):
            assert row in text
    assert "mlflow ui --backend-store-uri" in text
    assert "## Does learning pay?" in text
    learned = pd.read_csv(calm / "table2-controls.csv").set_index("control")
    assert learned["control_method"].isna().to_dict() == {
        "placebo": True, "frozen": False, "best beta": False,
    }  # fmt: skip

    tracked = runs(calm)
    assert set(tracked["run_status"]) <= {"FINISHED", "KILLED"}
    cells = tracked[tracked["kind"] == "cell"]
    assert len(cells) == 7 * 2 + 4
    assert cells["cell_id"].is_unique
    # KILLED are the trials that the search stopped early, and nothing else.
    assert set(cells.loc[cells["run_status"] == "KILLED", "status"]) <= {"pruned"}
    assert (tracked["kind"] == "study").sum() == 1
    assert (tracked["kind"] == "summary").sum() == 7
    assert not list(calm.rglob("*.pt"))


@pytest.mark.slow
def test_run_again_it_trains_nothing_and_says_the_same(calm: Path) -> None:
    stored = {p: p.stat().st_mtime_ns for p in calm.glob("cells/*/result.json")}
    before, number_of_runs = pd.read_csv(calm / "table2.csv"), len(runs(calm))
    done = table2(*SMALL, *ROWS, "--output", calm, cwd=calm)
    assert done.returncode == 0, done.stderr
    assert {p: p.stat().st_mtime_ns for p in calm.glob("cells/*/result.json")} == stored
    pd.testing.assert_frame_equal(pd.read_csv(calm / "table2.csv"), before)
    assert len(runs(calm)) == number_of_runs
    assert "18 kept from before" in done.stderr


@pytest.mark.slow
def test_killed_at_any_point_and_run_again_it_ends_the_same(calm: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = str(ROOT / "studies" / "table2.py")
    draw = random.Random(0)
    for finished in (0, 0, 1, 2, 4, 6, 8, 10, 12, 14):
        with open(tmp_path / "stderr.txt", "w+") as stderr:
            driver = subprocess.Popen(
                [sys.executable, script, *SMALL, *ROWS, "--output", str(out)],
                cwd=tmp_path,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
            while driver.poll() is None and len(list(out.glob("cells/*/result.json"))) < finished:
                time.sleep(0.02)
            time.sleep(draw.uniform(0, 8) if finished == 0 else draw.uniform(0, 0.5))
            driver.kill()
            assert driver.wait() == -signal.SIGKILL, (tmp_path / "stderr.txt").read_text()
    done = table2(*SMALL, *ROWS, "--output", out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(table(out), table(calm), check_exact=True)
    tracked = runs(out)
    assert set(tracked["run_status"]) <= {"FINISHED", "KILLED"}
    cells = tracked[tracked["kind"] == "cell"]
    assert cells["cell_id"].is_unique
    assert set(cells["cell_id"]) == set(runs(calm).query("kind == 'cell'")["cell_id"])
    assert (tracked["kind"] == "study").sum() == 1
    assert not list(out.glob(".ray-*"))


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_interrupted_it_says_how_to_go_on_and_leaves_no_run_open(tmp_path: Path) -> None:
    out = tmp_path / "out"
    driver = subprocess.Popen(
        [sys.executable, str(ROOT / "studies" / "table2.py"), *SMALL, "--output", str(out)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while driver.poll() is None and not any(out.glob("cells/*/result.json")):
        time.sleep(0.1)
    driver.send_signal(signal.SIGINT)
    _, stderr = driver.communicate(timeout=60)
    assert driver.returncode == 130, stderr
    assert "run the same command again, without --fresh, to go on" in stderr
    assert "Traceback" not in stderr
    assert "RUNNING" not in set(runs(out)["run_status"])
    finished = len(CellStore(out).records())
    assert finished >= 1


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


@pytest.mark.slow
def test_a_folder_of_ones_own_images(tmp_path: Path) -> None:
    tree = image_tree(tmp_path / "images")
    out = tmp_path / "out"
    done = table2(
        "--dataset", f"folder:{tree}", "--preset", "smoke", "--seeds", "1",
        "--rows", "none,metamixup", "--output", out, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(pd.read_csv(out / "table2.csv")["n_seeds"]) == [1, 1]


@pytest.mark.slow
def test_wrong_labels_and_a_long_tail_are_of_their_own_and_are_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    rows = ["--preset", "smoke", "--seeds", "1", "--rows", "none,metamixup,placebo"]
    noise = ["--label-noise", "0.4", "--label-noise-kind", "pair", "--imbalance", "5"]
    for flags in ([], noise):
        done = table2(*rows, *flags, "--output", out, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    trained = [record.cell.training for record in CellStore(out).records()]
    assert (
        sorted((t.label_noise, t.imbalance) for t in trained) == [(0.0, 1.0)] * 3 + [(0.4, 5.0)] * 3
    )
    report = (out / "table2.md").read_text()
    assert "40 % of the training labels of each class are wrong (pair)" in report
    assert "cut to a long tail, largest over smallest class 5," in report
    with sqlite3.connect(out / "mlflow.db") as connection:
        found = pd.read_sql(
            "select t.value as kind, p.key, p.value from params p join tags t "
            "on p.run_uuid = t.run_uuid where t.key = 'kind' and p.key in "
            "('label_noise', 'label_noise_kind', 'imbalance')",
            connection,
        )
    told = set(found.itertuples(index=False, name=None))
    for kind in ("study", "cell"):
        expected = {("label_noise", "0.4"), ("label_noise_kind", "pair"), ("imbalance", "5.0")}
        assert {(key, value) for k, key, value in told if k == kind} >= expected


@pytest.mark.slow
def test_bad_input_gives_one_clear_error_before_anything_is_trained(tmp_path: Path) -> None:
    def error(*arguments: str | Path) -> str:
        return error_of(*arguments, "--output", tmp_path / "out", cwd=tmp_path)

    message = error("--rows", "none,beta-3")
    assert "beta-3" in message
    assert "beta-search" in message
    message = error("--dataset", "cifar11")
    assert "cifar11" in message
    assert "cifar10" in message
    assert "at least 1" in error("--seeds", "0")
    assert "positive" in error("--lr", "-1")

    empty = image_tree(tmp_path / "empty")
    for file in (empty / "train" / "dog").iterdir():
        file.unlink()
    assert "dog" in error("--dataset", f"folder:{empty}")
    broken = image_tree(tmp_path / "broken")
    file = broken / "train" / "cat" / "7.png"
    file.write_bytes(file.read_bytes()[:100])
    assert "7.png" in error("--dataset", f"folder:{broken}")
    assert "train" in error("--dataset", f"folder:{tmp_path / 'nowhere'}")

    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 20), ("t10k", 10)):
        images = np.zeros((count, 28, 28), np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        labels[3] = 17 if part == "train" else labels[3]
        header = np.array([0x803, count, 28, 28], ">u4").tobytes()
        with gzip.open(raw / f"{part}-images-idx3-ubyte.gz", "wb") as out:
            out.write(header + images.tobytes())
        with gzip.open(raw / f"{part}-labels-idx1-ubyte.gz", "wb") as out:
            out.write(np.array([0x801, count], ">u4").tobytes() + labels.tobytes())
    message = error("--dataset", "fashion_mnist", "--data-root", tmp_path / "data")
    assert "17" in message
    assert "train-labels" in message

    message = error("--tracking-uri", "http://127.0.0.1:9")
    assert "127.0.0.1:9" in message
    message = error("--address", "127.0.0.1:9")
    assert "127.0.0.1:9" in message
    assert not list((tmp_path / "out").glob("cells/*"))

    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "out"
    assert "--output" in error_of("--output", below, cwd=tmp_path)

"""The cost study as a user runs it: a process with flags, its files, its runs, its messages."""

from __future__ import annotations

import io
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import pandas as pd
import pytest

from studies.cost import main
from tests.support.scripts import interrupt_when
from tests.support.stores import statuses

SMALL = ["--preset", "smoke", "--threads", "1", "--contenders", "auto,amortised_4"]


def measured(output: Path) -> dict[Path, int]:
    """Returns the files of what is measured, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in output.glob("groups/*.json")}


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """Returns the output of a smoke run that was interrupted after its first group and ended here.

    What was measured is kept, and no run stays open. The groups that are measured here leave out
    the memory, for which each starts a process.
    """
    folder = tmp_path_factory.mktemp("cost")
    out = folder / "out"
    out.mkdir()
    shutil.copy(empty_store, out / "mlflow.db")
    study = ["cost", *SMALL]
    interrupt_when(lambda: bool(measured(out)), *study, "--output", out, cwd=folder)
    assert statuses(out)["cost"] == "KILLED"
    assert "RUNNING" not in statuses(out).values()
    before = measured(out)
    assert 0 < len(before) < 4
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.setattr("hpo.bench.cost.memory.cpu_peaks", lambda *_: {})
        assert main([*SMALL, "--output", str(out)]) == 0
    (out / "stdout.txt").write_text(printed.getvalue())
    assert before.items() <= measured(out).items()
    return out


@pytest.mark.slow
def test_all_files_rows_and_runs_are_there(resumed: Path) -> None:
    frame = pd.read_csv(resumed / "cost.csv")
    main = frame[frame["part"] == "main"].set_index("contender")
    assert list(main.index) == ["vanilla", "auto", "amortised_4"]
    assert main.loc["auto", "flops_ratio"] > main.loc["amortised_4", "flops_ratio"] > 1
    assert (main["peak_mib"] > 0).all()
    assert main.loc["auto", "cosine"] == pytest.approx(1, abs=1e-6)
    assert set(frame["part"]) == {"main", "batch", "depth"}  # whole epochs were not asked for
    measured = frame[frame["contender"].isin(["vanilla", "auto"])]
    assert (measured["time_ratio"] > 0).all()
    assert (resumed / "cost.md").read_text().startswith("# cost\n")
    assert (resumed / "cost.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(resumed.glob("groups/*.json"))) == 4
    runs = statuses(resumed)
    assert len(runs) == 1 + len(frame)
    assert runs["cost"] == "FINISHED"
    assert set(runs.values()) == {"FINISHED"}
    printed = (resumed / "stdout.txt").read_text()
    assert "| auto " in printed
    assert "look at the runs: mlflow ui" in printed


@pytest.mark.slow
def test_run_again_it_measures_nothing_and_says_the_same(
    resumed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = measured(resumed)
    before, runs = pd.read_csv(resumed / "cost.csv"), statuses(resumed)
    assert main([*SMALL, "--output", str(resumed)]) == 0
    assert capsys.readouterr().err.count("kept from before") == 4
    assert measured(resumed) == stored
    pd.testing.assert_frame_equal(pd.read_csv(resumed / "cost.csv"), before)
    assert statuses(resumed) == runs


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--contenders", "nobody"], "unknown contender 'nobody'; choose among vanilla, auto"),
        (["--models", "lenet"], "unknown model 'lenet'; choose among cnn"),
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
        (["--dataset", "cifar11"], "cifar11"),
    ],
)
def test_bad_flags_give_one_clear_error(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags, "--output", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cost: error: ")
    assert said in line
    assert not list((tmp_path / "out").glob("groups/*"))

"""The load as a user runs it: studies side by side on one server, and nothing is lost."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
CELLS = 20


def load(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "studies" / "load.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_studies_side_by_side_on_one_server_lose_nothing(tmp_path: Path) -> None:
    flags = ["--cells", CELLS, "--concurrent", 2, "--workers", 1, "--output", tmp_path / "out"]
    done = load(*map(str, flags))
    logs = [path.read_text() for path in (tmp_path / "out").glob("load-*/log.txt")]
    assert done.returncode == 0, (done.stderr, logs)
    assert len(logs) == 2
    records = [path.parent.name for path in (tmp_path / "out").glob("load-?/cells/*/result.json")]
    cells = Counter(records)
    assert len(cells) == CELLS  # the same cells in both studies
    assert set(cells.values()) == {2}
    with closing(sqlite3.connect(tmp_path / "out" / "load-mlflow.db")) as database:
        runs = database.execute(
            "SELECT s.value, r.name, r.status FROM runs r "
            "JOIN tags s ON s.run_uuid = r.run_uuid AND s.key = 'study_id' "
            "JOIN tags k ON k.run_uuid = r.run_uuid AND k.key = 'kind' AND k.value = 'cell'"
        ).fetchall()
        unended = database.execute(
            "SELECT count(*) FROM runs WHERE status IN ('RUNNING', 'SCHEDULED')"
        ).fetchone()
    assert unended == (0,)
    assert {status for _, _, status in runs} == {"FINISHED"}
    by_study = Counter((study, name) for study, name, _ in runs)
    assert set(by_study.values()) == {1}
    assert Counter(study for study, _ in by_study).most_common()[0][1] == CELLS
    assert {name for _, name in by_study} == set(cells)
    assert len(by_study) == 2 * CELLS
    frame = pd.read_csv(tmp_path / "out" / "load.csv")
    assert list(frame["lost"]) == list(frame["duplicated_runs"]) == [0, 0]
    assert list(frame["mlflow_runs"]) == [CELLS, CELLS]
    for name in ("load.md", "load-samples.csv"):
        assert (tmp_path / "out" / name).stat().st_size > 0

    # A record that is gone is noticed, without another measurement.
    next((tmp_path / "out").glob("load-2/cells/*/result.json")).unlink()
    again = load("--tracking-uri", f"sqlite:///{tmp_path / 'out' / 'load-mlflow.db'}", *flags)
    assert again.returncode == 1, again.stderr
    assert list(pd.read_csv(tmp_path / "out" / "load.csv")["lost"]) == [0, 1]

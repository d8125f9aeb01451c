"""The load as a user runs it: studies side by side on one server, and nothing is lost."""

from __future__ import annotations

import shutil
from argparse import Namespace
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from hpo.bench.load import run
from hpo.tracking.store import mlflow_settings
from mlflow import MlflowClient
from studies.load import main

CELLS = 4


def test_studies_side_by_side_on_one_server_lose_nothing(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "ALONE", 2)
    alone = run._seconds_alone  # one loop instead of two at a time
    one = {"concurrent": 1}
    monkeypatch.setattr(run, "_seconds_alone", lambda o: alone(Namespace(**vars(o) | one)))
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(empty_store, out / "load-mlflow.db")
    flags = ["--cells", CELLS, "--concurrent", 2, "--workers", 1, "--output", out]
    status = main([*map(str, flags)])
    logs = [path.read_text() for path in out.glob("load-*/log.txt")]
    assert status == 0, logs
    assert len(logs) == 2
    cells = Counter(path.parent.name for path in out.glob("load-?/cells/*/result.json"))
    assert len(cells) == CELLS  # the same cells in both studies
    assert set(cells.values()) == {2}

    uri = f"sqlite:///{out / 'load-mlflow.db'}"
    with mlflow_settings():
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("load").experiment_id
        runs = client.search_runs([experiment], max_results=1000)
    assert {run.info.status for run in runs} == {"FINISHED"}
    stored = Counter(
        (run.data.tags["study_id"], run.data.tags["cell_id"])
        for run in runs
        if run.data.tags["kind"] == "cell"
    )
    assert set(stored.values()) == {1}
    assert Counter(cell for _, cell in stored) == cells

    frame = pd.read_csv(out / "load.csv")
    assert list(frame["lost"]) == list(frame["duplicated_runs"]) == [0, 0]
    assert list(frame["mlflow_runs"]) == [CELLS, CELLS]
    assert all((out / name).stat().st_size for name in ("load.md", "load-samples.csv"))

    # A record that is gone is noticed, without another measurement.
    next(out.glob("load-2/cells/*/result.json")).unlink()
    assert main(["--tracking-uri", uri, *map(str, flags)]) == 1
    assert list(pd.read_csv(out / "load.csv")["lost"]) == [0, 1]

"""A study on a Ray cluster of two nodes: spread, fed once, and robust against the loss of one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import hpo.cluster.runner
from hpo.cells.store import CellStore
from hpo.run import run_study
from hpo.storage.places import storage_at
from tests.support.scripts import ROOT
from tests.support.stores import tracked_runs
from tests.system.cluster import two_nodes

CELLS = {"none-0", "none-1", "beta-1-0", "beta-1-1"}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nodes of one machine")


@dataclass(frozen=True)
class Happened:
    """What the cluster's process printed and left in `output`, and in a bucket."""

    output: Path
    uri: str
    seen: dict[str, Any]
    errors: str


@pytest.fixture(scope="module")
def happened(
    s3_server: Any, empty_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Happened:
    output, uri = tmp_path_factory.mktemp("two-nodes"), f"s3://{s3_server.bucket}/two-nodes"
    (output / "study").mkdir()
    shutil.copy(empty_store, output / "study" / "mlflow.db")
    folder = Path(tempfile.mkdtemp(prefix="hm", dir="/tmp"))  # Ray's sockets want a short name
    settings = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AWS_"))}
    settings |= {"RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
    run = subprocess.run(
        [sys.executable, two_nodes.__file__, str(output), uri],
        cwd=ROOT,
        env={**settings, **s3_server.environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )
    shutil.rmtree(folder, ignore_errors=True)
    assert run.returncode == 0, run.stderr
    return Happened(output, uri, json.loads(run.stdout.splitlines()[-1]), run.stderr)


@pytest.fixture(scope="module")
def calm(without_ray_in_module: None, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Returns the table of the same study in this process, one cell after another, without Ray."""
    output = tmp_path_factory.mktemp("calm")
    assert run_study("nodes", two_nodes.ROWS, "", [*two_nodes.FLAGS, "--output", str(output)]) == 0
    return table(output)


def table(output: Path) -> pd.DataFrame:
    """Returns the table without what a clock measured."""
    frame = pd.read_csv(output / "nodes.csv")
    return frame.drop(columns=[name for name in frame if name.endswith("_seconds")])


def tags(output: Path, key: str) -> dict[str, str]:
    """Returns the value of a tag of each run of a training; runs are complete and each is there
    once."""
    runs = tracked_runs(output)
    names = {str(run.info.run_name) for run in runs}
    assert len(names) == len(runs) == 1 + len(CELLS) + 2
    assert {run.info.status for run in runs} == {"FINISHED"}
    return {str(run.info.run_name): run.data.tags[key] for run in runs if key in run.data.tags}


def test_trials_spread_over_the_nodes_and_give_the_table_of_one(
    happened: Happened, calm: pd.DataFrame, s3: Any
) -> None:
    assert happened.seen["status"] == 0
    pd.testing.assert_frame_equal(table(happened.output / "study"), calm)
    begun = happened.seen["begun"]
    assert begun.keys() == CELLS
    assert sorted(places[0][0] for places in begun.values()) == sorted(2 * happened.seen["nodes"])
    records = CellStore(storage_at(happened.uri)).records()
    where = {f"{r.cell.method}-{r.cell.seed}": r.environment["node"] for r in records}
    assert where == {name: places[-1][0] for name, places in begun.items()}
    assert set(where.values()) == set(happened.seen["nodes"])
    noted = tags(happened.output / "study", "node")
    assert noted == {r.cell.id: r.environment["node"] for r in records}
    assert set(tags(happened.output / "study", "host")) == set(noted)


def test_data_reach_each_node_once(happened: Happened) -> None:
    assert happened.seen["copies"] == [sorted(happened.seen["nodes"])]


def test_the_loss_of_a_node_costs_its_training_an_epoch_at_most(happened: Happened) -> None:
    head, other = happened.seen["nodes"]
    begun, lost = dict(happened.seen["begun"]), happened.seen["removed"]
    # From the checkpoint in the bucket, on the node that was left.
    assert begun.pop(lost) == [[other, 0], [head, 2]]
    assert all(places in ([[head, 0]], [[other, 0]]) for places in begun.values())


def test_another_machine_goes_on_from_the_bucket(
    happened: Happened,
    calm: pd.DataFrame,
    s3: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nothing_drawn: None,
) -> None:
    """All that is left of the driver is the bucket; nothing is trained again."""
    monkeypatch.delattr(hpo.cluster.runner, "run_on_ray")
    identities = storage_at(happened.uri).read("studies.json")
    flags = [*two_nodes.FLAGS, "--output", str(tmp_path), "--storage", happened.uri]
    assert run_study("nodes", two_nodes.ROWS, "", flags) == 0
    pd.testing.assert_frame_equal(table(tmp_path), calm)
    assert storage_at(happened.uri).read("studies.json") == identities
    files = storage_at(happened.uri).files("")
    assert [name for name in files if not name.endswith("/result.json")] == ["studies.json"]


def test_a_path_that_differs_from_node_to_node_is_refused(happened: Happened) -> None:
    assert happened.seen["relative"] == 2
    assert "the Ray cluster has 2 nodes" in happened.errors
    assert "give --storage (or --output) as an absolute path" in happened.errors


def test_a_cell_is_measured_on_a_gpu_of_its_own(happened: Happened) -> None:
    """GPUs are Ray's word for it here: what was taken is made up, 30 of 100 bytes."""
    assert happened.seen["share"] == 0.3334

"""A Ray cluster of two nodes on this machine, and a study on it, as a process of its own: what Ray
leaves behind in a process would disturb other tests. Run by test_two_nodes.py.

Prints as its last line what was seen, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.cluster_utils import Cluster

import core.training.fit as fit
import hpo.cluster.runner
import hpo.run.work
from core.policies import Beta, NoMix
from hpo.cells.gpu_use import GpuUse
from hpo.cluster import trainable
from hpo.cluster.gpu_memory import Read
from hpo.cluster.packing import measured_share
from hpo.report.style import canvas
from hpo.run import run_study
from hpo.storage import bucket
from hpo.study.rows import Row, StudyRow
from hpo.study.study_run import StudyRun

ROWS = [
    StudyRow(Row("none", "None", "", "none"), NoMix()),
    StudyRow(Row("beta-1", "Beta(1, 1)", "", "beta"), Beta(alpha=1.0)),
]
FLAGS = ["--preset", "smoke", "--seeds", "2", "--epochs", "3"]
MIB = 2**20


def train_noted(config: Any, notes: str = "", doomed: str = "", **options: Any) -> None:
    """`train_cell` that reports and keeps each epoch, and notes where it began, and from what; the
    second of the doomed node comes no further than its second epoch."""
    fit.CHECKPOINT_SECONDS = trainable.REPORT_SECONDS = bucket.REST = 0.0
    checkpoints, report = fit.checkpoints, tune.report
    seen_epochs, place = [0], [0]

    def reported(result: dict[str, Any]) -> None:
        report(result)
        seen_epochs[0] += len(result["epochs"])
        on_doomed = place[0] > 2 and ray.get_runtime_context().get_node_id() == doomed
        while seen_epochs[0] == 2 and on_doomed:
            time.sleep(1)

    def noted(*arguments: Any) -> Iterator[Any]:
        states = list(checkpoints(*arguments))
        node = ray.get_runtime_context().get_node_id()
        seed, method = config["cell"]["training"]["seed"], config["cell"]["method"]
        epochs = len(states[0]["history"]) if states else 0
        with open(Path(notes) / f"{method}-{seed}", "a") as file:
            file.write(f"{node} {epochs}\n")
        place[0] = len(list(Path(notes).iterdir()))
        # A node has room for one, and cells begin in pairs: the second of a pair does so on the
        # other node, however long that takes.
        while len(list(Path(notes).iterdir())) % 2:
            time.sleep(0.1)
        return iter(states)

    fit.checkpoints, tune.report = noted, reported
    try:
        trainable.train_cell(config, **options)
    finally:
        fit.checkpoints, tune.report = checkpoints, report


class Patient:
    """`time` for Ray, which gives a node 30 seconds to start: a busy machine needs more."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    @staticmethod
    def monotonic() -> float:
        return time.monotonic() / 20


@contextmanager
def fake_meter(device: str, share: float) -> Iterator[Read]:
    """As if a training took 30 of 100 bytes, on a GPU that Ray has reserved."""
    assert ray.get_gpu_ids() == [0]
    assert (device, share) == ("cpu", 1.0)
    yield lambda: GpuUse(peak=30, total=100, share=share)


def notes_of(folder: Path) -> dict[str, list[list[Any]]]:
    texts = {path.name: path.read_text().split() for path in sorted(folder.iterdir())}
    return {
        name: [[node, int(epochs)] for node, epochs in zip(words[::2], words[1::2], strict=True)]
        for name, words in texts.items()
    }


def main(output: Path, uri: str) -> dict[str, Any]:
    """Runs everything on one cluster, which loses a node in the second half of the study."""
    seen: dict[str, Any] = {}
    node = {"num_cpus": 1, "object_store_memory": 80 * MIB, "include_dashboard": False}
    ray._private.node.time = Patient()
    Cluster._wait_for_node.__defaults__ = (600.0,)
    cluster = Cluster(initialize_head=True, head_node_args={**node, "num_gpus": 1})
    other = cluster.add_node(**node)
    seen["nodes"] = [cluster.head_node.node_id, other.node_id]
    flags = [*FLAGS, "--address", cluster.address]
    put, end, report = ray.put, StudyRun.end, StudyRun.report
    references: list[Any] = []
    ended: list[str] = []
    loaded: list[tuple[StudyRun, Any]] = []

    def watched_put(value: Any) -> Any:
        ref = put(value)
        if isinstance(value, dict) and ("digits", None) in value:
            references.append(ref)
        return ref

    def watched_end(run: StudyRun, cell_id: str, *arguments: Any, **named: Any) -> None:
        if cell_id in run._running:  # else it has been told before
            ended.append(where_begun(run, cell_id)[-1][0])
        if len(ended) == 2 and not loaded:
            where = ray.experimental.get_object_locations(references)
            seen["copies"] = [sorted(where[ref]["node_ids"]) for ref in references]
            # A copy: what lies in this session's store is not touched in the next one.
            loaded.append((run, deepcopy(ray.get(references[0]))))
            references.clear()
        end(run, cell_id, *arguments, **named)

    def remove(run: StudyRun, cell_id: str, epochs: Any) -> bool:
        stop = report(run, cell_id, epochs)
        if other.node_id in ended and other in cluster.worker_nodes:
            began = where_begun(run, cell_id)
            if began[-1][0] == other.node_id and len(run._epochs[cell_id]) == 2:
                seen["removed"] = name_of(run, cell_id)
                cluster.remove_node(other, allow_graceful=False)
        return stop

    def where_begun(run: StudyRun, cell_id: str) -> list[list[Any]]:
        return notes_of(notes)[name_of(run, cell_id)]

    def name_of(run: StudyRun, cell_id: str) -> str:
        return f"{run._running[cell_id].method}-{run._running[cell_id].seed}"

    hpo.run.work.study_figure = lambda *_: canvas(1, 1)  # nobody looks at it
    os.chdir(output)
    seen["relative"] = run_study("nodes", ROWS, "", [*flags, "--output", "relative"])
    notes = output / "notes"
    notes.mkdir()
    ray.put, StudyRun.end, StudyRun.report = watched_put, watched_end, remove
    hpo.cluster.runner.train_cell = partial(train_noted, notes=str(notes), doomed=other.node_id)
    shared = ["--output", str(output / "study"), "--storage", uri]
    seen["status"] = run_study("nodes", ROWS, "", [*flags, *shared])
    seen["begun"] = notes_of(notes)
    ray.init(address=cluster.address, log_to_driver=False)
    run, sources = loaded[0]
    seen["share"] = measured_share(run, sources, threads=1, device="cpu", meter=fake_meter)
    ray.shutdown()
    cluster.shutdown()
    return seen


if __name__ == "__main__":
    tempfile.tempdir = os.environ["RAY_TMPDIR"]
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2])))

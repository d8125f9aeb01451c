"""A study that is disturbed, and what it must end as: the table of a calm one, one run a cell.

Most trainings run in this process, through the worker's own function and a stand-in for Tune's
report, so that a fault comes at a known epoch.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import hpo.cluster.runner
from core.policies import Beta, NoMix
from core.training import checkpoint, training
from hpo.cells.store import CellStore
from hpo.cluster import trainable
from hpo.run import run_study
from hpo.study.rows import Row, StudyRow
from hpo.study.study_run import StudyRun

ROWS = [
    StudyRow(Row("none", "None", "", "none"), NoMix()),
    StudyRow(Row("beta-1", "Beta(1, 1)", "", "beta"), Beta(alpha=1.0)),
]
FLAGS = ["--preset", "smoke", "--seeds", "2", "--epochs", "3"]

Fault = Callable[[int], None]
Query = Callable[[str], list[tuple[Any, ...]]]


class Bench:
    """Runs studies in this process: four cells of three epochs each.

    Attributes:
        told: epochs of the last study that workers reported, those before a resume included.
        trained: epochs that it trained.
    """

    cells, epochs = 4, 3

    def __init__(self) -> None:
        self.told = 0
        self.trained = 0
        self._fault: Fault | None = None

    def study(self, output: Path, *flags: str, fault: Fault | None = None) -> int:
        """Run it; `fault` is called after each epoch with the number of epochs told so far."""
        self._fault, self.told, self.trained = fault, 0, 0
        return run_study("faults", ROWS, "", [*FLAGS, *flags, "--output", str(output)])

    def run(
        self, run: StudyRun, sources: Any, demand: Any, *, storage: Any, device: str, **_: Any
    ) -> None:
        """In the place of `hpo.cluster.runner.run_on_ray`."""
        run.workers = 1
        epoch = training.Training.epoch

        def counted(state: training.Training) -> Any:
            self.trained += 1
            return epoch(state)

        while (cell := run.next()) is not None:

            def report(told: dict[str, Any], cell_id: str = cell.id) -> None:
                self.told += len(told["epochs"])
                run.report(cell_id, told["epochs"])
                if "ending" in told:
                    run.end(cell_id, **json.loads(told["ending"]))
                elif self._fault is not None:
                    self._fault(self.told)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(trainable.tune, "report", report)
                patch.setattr(training.Training, "epoch", counted)
                trainable.train_cell(
                    {"cell": cell.to_dict()},
                    sources=sources,
                    storage=storage,
                    device=device,
                    threads=1,
                )

    @staticmethod
    def at(epochs: int, act: Callable[[], None]) -> Fault:
        """Act after so many epochs of the study."""
        return lambda told: act() if told == epochs else None

    @staticmethod
    def interrupt() -> None:
        """As Ctrl-C does."""
        raise KeyboardInterrupt

    @staticmethod
    def sqlite(database: Path) -> Query:
        """What asks a store in a file."""

        def query(text: str) -> list[tuple[Any, ...]]:
            with closing(sqlite3.connect(database)) as connection:
                return connection.execute(text).fetchall()

        return query

    @staticmethod
    def outcome(output: Path, study: str = "faults") -> tuple[str, dict[str, Any]]:
        """The CSV, as text, and what each cell gave, both without what a clock measured."""
        frame = pd.read_csv(output / f"{study}.csv", dtype=str)
        timed = [name for name in frame if name.endswith("_seconds")]
        cells = {r.cell.id: _untimed(r.result) for r in CellStore(output).records()}
        return frame.drop(columns=timed).to_csv(), cells

    @staticmethod
    def assert_tracked(
        output: Path, query: Query | None = None, *, over: bool = True, study: str = "faults"
    ) -> dict[str, str]:
        """Each cell of the study has one run, all runs are in a terminal state; if over, complete.

        Returns:
            The status of each run that is not deleted, by name.
        """
        query = query or Bench.sqlite(output / "mlflow.db")
        assert query("SELECT name FROM runs WHERE status = 'RUNNING'") == []
        identity = json.loads((output / "studies.json").read_text())[study]
        ours = (
            "runs r JOIN tags t ON r.run_uuid = t.run_uuid WHERE r.lifecycle_stage = 'active' "
            f"AND t.key = 'study_id' AND t.value = '{identity}'"
        )
        statuses = query(f"SELECT r.name, r.status FROM {ours}")
        assert len(dict(statuses)) == len(statuses), "duplicated runs"
        if over:
            records = {record.cell.id: record for record in CellStore(output).records()}
            kinds = Counter(kind for (kind,) in query(
                f"SELECT k.value FROM tags k WHERE k.key = 'kind' AND k.run_uuid IN "
                f"(SELECT r.run_uuid FROM {ours})"
            ))  # fmt: skip
            assert kinds["cell"] == len(records)
            assert kinds["study"] == 1
            methods = {r.cell.method for r in records.values() if r.cell.purpose == "final"}
            assert kinds["summary"] == len(methods)
            # The final value of a metric stands beside the last epoch's where it differs.
            epochs = query(
                "SELECT DISTINCT r.name, m.step FROM metrics m JOIN runs r ON "
                "m.run_uuid = r.run_uuid WHERE m.key = 'train_loss' AND r.run_uuid IN "
                f"(SELECT r.run_uuid FROM {ours})"
            )
            steps = Counter(name for name, _ in epochs)
            assert steps == {name: len(r.result["history"]) for name, r in records.items()}
            for name, status in statuses:
                pruned = name in records and records[name].status == "pruned"
                assert status == ("KILLED" if pruned else "FINISHED"), name
        return dict(statuses)

    @classmethod
    def assert_as_calm(
        cls, output: Path, calm: Path, query: Query | None = None, *, study: str = "faults"
    ) -> None:
        """Bit for bit the table and the cells of a study that nothing disturbed; no leftovers."""
        (table, cells), (calm_table, calm_cells) = (
            cls.outcome(folder, study) for folder in (output, calm)
        )
        assert table == calm_table
        assert cells == calm_cells
        cls.assert_tracked(output, query, study=study)
        left = ("*.pt", ".checkpoint.pt.*", ".result.json.*", f".{study}.*", "mlflow-pending*")
        assert not [path for pattern in left for path in output.rglob(pattern)]


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _untimed(v) for k, v in value.items() if not k.endswith("_seconds")}
    return [_untimed(v) for v in value] if isinstance(value, list) else value


def patched(patch: pytest.MonkeyPatch) -> Bench:
    """A bench whose studies train here, report each epoch and keep a checkpoint of each."""
    bench = Bench()
    patch.setattr(hpo.cluster.runner, "run_on_ray", bench.run)
    patch.setattr(trainable, "REPORT_SECONDS", 0.0)
    patch.setattr("core.training.fit.CHECKPOINT_SECONDS", 0.0)
    patch.setattr(checkpoint.os, "fsync", lambda _: None)
    return bench


@pytest.fixture
def told_to_end() -> None:
    """In place of the one for all studies: here SIGTERM is sent by the tests."""


@pytest.fixture(scope="package")
def bench() -> Iterator[Bench]:
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        yield patched(patch)
    torch.set_num_threads(threads)


@pytest.fixture
def output(tmp_path: Path, empty_store: Path) -> Path:
    """The output folder of a study, with an empty store in it."""
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(empty_store, out / "mlflow.db")
    return out


@pytest.fixture(scope="package")
def calm(tmp_path_factory: pytest.TempPathFactory, bench: Bench, empty_store: Path) -> Path:
    """The output folder of a study that nothing disturbed."""
    out = tmp_path_factory.mktemp("calm")
    shutil.copy(empty_store, out / "mlflow.db")
    assert bench.study(out) == 0
    assert bench.told == bench.trained == Bench.cells * Bench.epochs
    bench.assert_as_calm(out, out)
    return out

"""A study that is disturbed, and what it must end as: the table of a calm one, one run a cell.

Most trainings run in this process, through the worker's own function and a stand-in for Tune's
report, so that a fault comes at a known epoch.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import hpo.cluster.runner
from core.policies import Beta, NoMix
from core.training import training
from hpo.cells.store import CellStore
from hpo.cluster import trainable
from hpo.report.style import canvas
from hpo.run import run_study
from hpo.study.rows import Row, StudyRow
from hpo.study.study_run import StudyRun
from tests.support.stores import steps_of, tracked_runs

ROWS = [
    StudyRow(Row("none", "None", "", "none"), NoMix()),
    StudyRow(Row("beta-1", "Beta(1, 1)", "", "beta"), Beta(alpha=1.0)),
]
FLAGS = ["--preset", "smoke", "--seeds", "2", "--epochs", "3"]

Fault = Callable[[int], None]


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
        """Runs it; `fault` is called after each epoch with the number of epochs told so far."""
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

            def report(values: dict[str, Any], cell_id: str = cell.id) -> None:
                self.told += len(values["epochs"])
                run.report(cell_id, values["epochs"])
                if "ending" in values:
                    run.end(cell_id, **trainable.ending_of(values))
                elif self._fault is not None:
                    self._fault(self.told)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(training.Training, "epoch", counted)
                trainable.train_cell(
                    {"cell": cell.to_dict()},
                    sources=sources,
                    storage=storage,
                    device=device,
                    threads=1,
                    report=report,
                )

    @staticmethod
    def at(epochs: int, act: Callable[[], None]) -> Fault:
        """Acts after so many epochs of the study."""
        return lambda told: act() if told == epochs else None

    @staticmethod
    def interrupt() -> None:
        """As Ctrl-C does."""
        raise KeyboardInterrupt

    @staticmethod
    def outcome(output: Path, study: str = "faults") -> tuple[str, dict[str, Any]]:
        """Returns the CSV, as text, and what each cell gave, both without what a clock measured."""
        frame = pd.read_csv(output / f"{study}.csv", dtype=str)
        timed = [name for name in frame if name.endswith("_seconds")]
        cells = {r.cell.id: _untimed(r.result.to_dict()) for r in CellStore(output).records()}
        return frame.drop(columns=timed).to_csv(), cells

    @staticmethod
    def assert_tracked(
        output: Path, store: str | None = None, *, over: bool = True, study: str = "faults"
    ) -> dict[str, str]:
        """Each cell of the study has one run, all runs are in a terminal state; if over, complete.

        Args:
            output: the study's folder.
            store: the URI of its store of runs, by default the one in that folder.
            over: whether the study got to its end.
            study: its name.

        Returns:
            The status of each run that is not deleted, by name.
        """
        identity = json.loads((output / "studies.json").read_text())[study]
        tracked = tracked_runs(store or output)
        assert "RUNNING" not in {run.info.status for run in tracked}
        runs = {
            str(run.info.run_name): run
            for run in tracked
            if run.data.tags.get("study_id") == identity
        }
        statuses = {name: run.info.status for name, run in runs.items()}
        assert len(runs) == sum(r.data.tags.get("study_id") == identity for r in tracked)
        if over:
            records = {record.cell.id: record for record in CellStore(output).records()}
            kinds = Counter(run.data.tags["kind"] for run in runs.values())
            methods = {r.cell.method for r in records.values() if r.cell.purpose == "final"}
            assert kinds == {"cell": len(records), "study": 1, "summary": len(methods)}
            # The final value of a metric stands beside the last epoch's where it differs.
            steps = {
                name: len(set(steps_of(store or output, runs[name].info.run_id, "train_loss")))
                for name in records
            }
            assert steps == {name: len(r.result.history) for name, r in records.items()}
            for name, status in statuses.items():
                pruned = name in records and records[name].status == "pruned"
                assert status == ("KILLED" if pruned else "FINISHED"), name
        return statuses

    @classmethod
    def assert_as_calm(
        cls, output: Path, calm: Path, store: str | None = None, *, study: str = "faults"
    ) -> None:
        """Bit for bit the table and the cells of a study that nothing disturbed; no leftovers."""
        (table, cells), (calm_table, calm_cells) = (
            cls.outcome(folder, study) for folder in (output, calm)
        )
        assert table == calm_table
        assert cells == calm_cells
        cls.assert_tracked(output, store, study=study)
        leftovers = ("*.pt", ".checkpoint.pt.*", ".result.json.*", f".{study}.*", "mlflow-pending*")
        assert not [path for pattern in leftovers for path in output.rglob(pattern)]


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _untimed(v) for k, v in value.items() if not k.endswith("_seconds")}
    return [_untimed(v) for v in value] if isinstance(value, list) else value


def patched(patch: pytest.MonkeyPatch) -> Bench:
    """Returns a bench whose studies train here, report each epoch, keep a checkpoint of each and
    draw nothing."""
    bench = Bench()
    patch.setattr(hpo.cluster.runner, "run_on_ray", bench.run)
    patch.setattr(trainable, "REPORT_SECONDS", 0.0)
    patch.setattr("core.training.fit.CHECKPOINT_SECONDS", 0.0)
    patch.setattr(os, "fsync", lambda _: None)
    patch.setattr(
        "hpo.run.work.study_figure", lambda *_: canvas(1, 1)
    )  # takes longer than the rest
    return bench

"""Studies in this process: Ray takes longer to start than a small study to train."""

from __future__ import annotations

from typing import Any

from hpo.cluster.trainable import environment, train
from hpo.study.plan import source_key
from hpo.study.study_run import StudyRun


def run_here(run: StudyRun, sources: Any, demand: Any, *, device: str, **_: Any) -> None:
    """Trains one cell after another, in place of `hpo.cluster.runner.run_on_ray`."""
    run.workers = 1
    while (cell := run.next()) is not None:
        result = train(cell, source=sources[source_key(cell.training)], device=device)
        if not run.report(cell.id, result.history):
            run.end(cell.id, "finished", result, None, environment(device, 1))

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import hpo.ray_runner
from hpo.plan import source_key
from hpo.study import StudyRun
from hpo.trainable import environment, train


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies train here, one cell after another: Ray takes longer to start than they to train."""

    def run_here(
        run: StudyRun, sources: Any, demand: Any, *, output: Path, device: str, **_: Any
    ) -> None:
        run.workers = 1
        while (cell := run.next()) is not None:
            result = train(cell, source=sources[source_key(cell.training)], device=device)
            if not run.report(cell.id, result["history"]):
                run.end(cell.id, "finished", result, None, environment(device, 1))

    monkeypatch.setattr(hpo.ray_runner, "run_on_ray", run_here)

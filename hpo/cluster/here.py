"""Trainings of a study in this process, one after another, without a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hpo.cluster.session import Demand
from hpo.cluster.trainable import ending_of, train_cell
from hpo.storage.protocol import Storage
from hpo.study.given import OBJECTS
from hpo.study.plan import SourceKey
from hpo.study.study_run import StudyError, StudyRun

if TYPE_CHECKING:
    from core.data import Source


class _Stopped(BaseException):
    """Leaves a training that the study stops."""


def run_here(
    run: StudyRun,
    sources: Mapping[SourceKey, Source],
    demand: Demand,
    *,
    storage: Storage,
    device: str,
    objects: OBJECTS,
    **_: Any,
) -> None:
    """Trains all cells of a study, in place of `hpo.cluster.runner.run_on_ray`; see there."""
    run.workers = 1
    failures: list[Exception] = []
    while (cell := run.next()) is not None:

        def report(values: dict[str, Any], cell_id: str = cell.id) -> None:
            try:
                stopped = run.report(cell_id, values["epochs"])
                if not stopped and "ending" in values:
                    run.end(cell_id, **ending_of(values))
            except Exception as error:  # the study's own, which the cell would take for its end
                failures.append(error)
                raise
            if stopped:
                raise _Stopped

        with suppress(_Stopped):
            train_cell(
                {"cell": cell.to_dict()},
                sources=sources,
                storage=storage,
                device=device,
                threads=demand.threads,
                gpus=1.0,
                objects=objects,
                report=report,
            )
        if failures:
            raise failures[0]
    if not run.finished:
        raise StudyError(
            "trainings are left that wait for nothing that runs; run the same command again"
        )

"""This module finds out what part of a GPU a study's cells need, before they are packed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ray

from hpo.cells.cell import Cell
from hpo.cells.gpu_use import GpuUse
from hpo.cluster.gpu_memory import Meter, to_measure
from hpo.cluster.trainable import register_policies, train
from hpo.cluster.trained_policies import own_policies, packed_cells
from hpo.study.given import OBJECTS
from hpo.study.plan import SourceKey, source_key
from hpo.study.study_run import StudyError, StudyRun

if TYPE_CHECKING:
    from core.data import Source


def measured_share(
    run: StudyRun,
    sources: Mapping[SourceKey, Source],
    *,
    threads: int,
    device: str,
    meter: Meter,
) -> float:
    """Returns the part of a GPU that holds any cell of the study.

    One cell of each kind is trained for an epoch, alone on a GPU; as many at a time as there are
    GPUs. What records of before tell is not measured again.

    Raises:
        StudyError: a cell does not even train alone, or tells nothing.
    """
    uses = {r.cell: GpuUse.from_environment(r.environment) for r in run.records}
    known = {cell: use for cell, use in uses.items() if use is not None}
    shared = ray.put(sources)
    asked = {
        cell.id: _measure.options(num_cpus=threads, num_gpus=1).remote(
            cell.to_dict(), shared, device, threads, meter, own_policies(run.plan)
        )
        for cell in to_measure(packed_cells(run.plan), known)
    }
    shares = [use.safe_share for use in known.values()]
    for cell_id, answer in asked.items():
        try:
            use = ray.get(answer)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise StudyError(
                f"--gpus-per-cell auto: an epoch of {cell_id} alone on a GPU failed: {reason}"
            ) from error
        if use is None:
            raise StudyError("--gpus-per-cell auto: no GPU was used; give a number instead")
        shares.append(use.safe_share)
    return max(shares)


@ray.remote(max_calls=1)
def _measure(
    cell: Mapping[str, Any],
    sources: Mapping[SourceKey, Source],
    device: str,
    threads: int,
    meter: Meter,
    policies: OBJECTS,
) -> GpuUse | None:
    """Trains a cell alone on a GPU, in a process that ends with it."""
    register_policies(policies)
    measured = Cell.from_dict(cell)
    with meter(device, 1.0) as used:
        source = sources[source_key(measured.training)]
        train(measured, source=source, device=device, threads=threads)
        return used()

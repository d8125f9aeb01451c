"""This module finds out what part of a GPU a study's cells need, before they are packed, and which
policies workers are told of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray

from core.data.imported import GIVEN
from core.policies import PolicyConfig
from core.training.config import TrainingConfig
from hpo.cells.cell import Cell
from hpo.cells.gpu_use import GpuUse
from hpo.cluster.gpu_memory import Meter, to_measure
from hpo.cluster.trainable import register_policies, train
from hpo.search.strategies import Listed, Sampled
from hpo.study.given import OBJECTS
from hpo.study.plan import Plan, SourceKey, source_key
from hpo.study.rows import EVENLY, StudyRow
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


def own_policies(plan: Plan) -> OBJECTS:
    """Returns by name the configurations of policies, those of the project apart, that the cells of
    a study train with. A worker learns of them from here alone."""
    policies = [cell.training.policy for cell in packed_cells(plan)]
    by_key = {row.row.key: row.policy for row in plan.rows}
    learned = [by_key[row.frozen_from] for row in plan.rows if row.frozen_from is not None]
    policies += [policy.frozen(EVENLY) for policy in learned if policy is not None]
    return {
        f"{GIVEN}policy.{policy.kind}": type(policy)
        for policy in policies
        if not type(policy).__module__.startswith("core.")
    }


def packed_cells(plan: Plan) -> list[Cell]:
    """Returns those that wait for nothing, and for the rows that wait one of each policy they train
    with, with the settings of the row. (A frozen row takes less than the one that it draws from.)
    """
    cells = plan.fixed_cells()
    for row in plan.rows:
        for shared in plan.base.values():
            cells += _waiting_cells(row, replace(row.training_of(shared), seed=plan.seeds[0]), plan)
    return cells


def _waiting_cells(row: StudyRow, training: TrainingConfig, plan: Plan) -> list[Cell]:
    """Returns a cell of each policy that a searched or filtered row or a strategy trains with."""
    policies: tuple[PolicyConfig, ...] = ()
    if row.searched is not None:
        policies = (row.searched.policy,)
    elif row.filtered_by is not None:
        policies = (row.filtered_by.policy,)
    elif isinstance(row.strategy, Listed):
        policies = row.strategy.policies
    elif isinstance(row.strategy, Sampled):
        policies = (row.strategy.policy,)
    elif row.strategy is not None and plan.budget is not None:
        # A population, or a strategy of the user's own, whose first cell stands for all.
        return [row.strategy.search(training, row.row.key, plan.search, plan.budget).next()]
    return [Cell(row.row.key, replace(training, policy=policy)) for policy in policies]


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

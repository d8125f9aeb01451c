"""This module lists what a study trains with before it is trained: a cell of each policy."""

from __future__ import annotations

from dataclasses import replace

from core.data.imported import GIVEN
from core.policies import PolicyConfig
from core.training.config import TrainingConfig
from hpo.cells.cell import Cell
from hpo.search.strategies import Listed, Sampled
from hpo.study.given import OBJECTS
from hpo.study.plan import Plan
from hpo.study.rows import EVENLY, StudyRow


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

"""How a row of a study may spend a budget: a list of policies, a search over a space, a population.

Each makes the search that hands out its trainings, all of them with the row's seed: strategies that
are compared seed by seed share splits, and those that start from the same settings their weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from core.policies import Beta, PolicyConfig
from core.training.config import TrainingConfig
from hpo.cells.cell import Cell
from hpo.cells.population import Population
from hpo.cells.record import Status
from hpo.cells.result import Result
from hpo.search.budget import Budget
from hpo.search.protocol import Search, SearchSettings
from hpo.search.spaces import Space

_SEEDS_APART = 10_000
"""Between the samplers of two seeds: more trials than a search ever has."""


class Strategy(Protocol):
    """A strategy is what a row does with its budget."""

    def search(
        self, base: TrainingConfig, method: str, settings: SearchSettings, budget: float
    ) -> Search:
        """Returns the search that hands out the trainings, one after another.

        Args:
            base: the training to tune; its policy is replaced, its seed is that of all trainings.
            method: of the cells.
            settings: of searches: startup, rungs and first seed.
            budget: in units of a plain training.
        """

    def expected(self, budget: float) -> tuple[int, float]:
        """Returns about how many trainings the budget is good for, and what of it they use."""


@dataclass(frozen=True)
class Listed(Strategy):
    """Trains with one policy after another until the budget is spent or the list ends.

    Attributes:
        policies: in this order.
    """

    policies: tuple[PolicyConfig, ...]

    def search(
        self, base: TrainingConfig, method: str, settings: SearchSettings, budget: float
    ) -> Search:
        trainings = [replace(base, policy=policy) for policy in self.policies]
        cells = [Cell(method, training, purpose="search") for training in trainings]
        return ListSearch(cells, Budget(budget))

    def expected(self, budget: float) -> tuple[int, float]:
        costs = [policy.cost for policy in self.policies]
        return min(len(costs), math.ceil(budget / min(costs))), min(budget, sum(costs))


@dataclass(frozen=True)
class Sampled(Strategy):
    """Searches the settings of a training, of its policy, or of what a learned policy does.

    Attributes:
        policy: what the settings found are put into.
        space: over which settings, see `hpo.search.configured`; or what makes it for
            a training of so many epochs.
        sampler: "tpe" or "random".
        halving: whether trials that are behind are stopped (ASHA).
    """

    policy: PolicyConfig
    space: Space | Callable[[int], Space]
    sampler: Literal["tpe", "random"] = "tpe"
    halving: bool = True

    def search(
        self, base: TrainingConfig, method: str, settings: SearchSettings, budget: float
    ) -> Search:
        from hpo.search.space_search import SpaceSearch  # Optuna

        settings = replace(
            settings,
            trials=None,
            seed=settings.seed + _SEEDS_APART * base.seed,
            sampler=self.sampler,
            halving=self.halving,
            replicates=1,
        )
        tuned = replace(base, policy=self.policy)
        space = self.space(base.epochs) if callable(self.space) else self.space
        return SpaceSearch(tuned, settings, space, method=method, budget=Budget(budget))

    def expected(self, budget: float) -> tuple[int, float]:
        whole = math.ceil(budget / self.policy.cost)
        return (2 * whole if self.halving else whole), budget  # half of the epochs saved, roughly


@dataclass(frozen=True)
class Evolved(Strategy):
    """Trains a population on α of Beta(α, α), of as many members as the budget is good for.

    Attributes:
        rest: how likely a copy stops mixing; see `Population`.
    """

    rest: float = 0.0

    def search(
        self, base: TrainingConfig, method: str, settings: SearchSettings, budget: float
    ) -> Search:
        members, segment = max(2, int(budget)), max(1, base.epochs // 10)
        population = Population(members, segment, rest=self.rest)
        training = replace(base, policy=Beta(1.0))
        cell = Cell(method, training, purpose="search", population=population)
        return ListSearch([cell], Budget(budget))

    def expected(self, budget: float) -> tuple[int, float]:
        return 1, budget


class ListSearch:
    """Hands out cells in their order while the budget lasts, each once; stops none of them early.

    Args:
        cells: at least one.
        budget: what they may cost.
    """

    def __init__(self, cells: Sequence[Cell], budget: Budget):
        self._cells = list({cell.id: cell for cell in cells}.values())
        self._budget = budget
        self._current: Cell | None = None

    @property
    def running(self) -> bool:
        """Says whether a cell was handed out and has not ended."""
        return self._current is not None

    @property
    def done(self) -> bool:
        """Says whether nothing runs and the list or the budget is at its end."""
        return not self.running and (not self._cells or self._budget.spent)

    def next(self) -> Cell:
        """Returns the next cell. The one before must have ended, and `done` be false."""
        self._current = self._cells.pop(0)
        return self._current

    def report(self, epochs: Iterable[Mapping[str, float]], cell: Cell | None = None) -> int | None:
        """Returns None: every training goes on to its end."""
        return None

    def end(self, status: Status, result: Result, cell: Cell | None = None) -> None:
        """Counts what the running cell has cost."""
        if self._current is None:
            raise RuntimeError("no training is running: call next() first")
        self._budget.charge(self._current.training, status, result)
        self._current = None

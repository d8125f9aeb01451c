"""What a study trains: its rows, each with a policy of its own or one that a search finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from core.policies import Beta, PolicyConfig
from core.training.config import TrainingConfig
from hpo.cells.cell import Cell
from hpo.search.protocol import Search, SearchSettings
from hpo.search.space_search import SEARCH_METHOD, alpha_search
from hpo.study.rows import StudyRow, check_sources

SourceKey = tuple[str, int | None]

SearchKey = tuple[str, str, int]


def search_key(cell: Cell) -> SearchKey:
    """Which search a trial belongs to: its method, data set and seed."""
    return cell.method, cell.dataset, cell.seed


def source_key(training: TrainingConfig) -> SourceKey:
    """Which loaded data set a training reads: its name and image size."""
    return training.dataset, training.image_size


@dataclass(frozen=True)
class Plan:
    """Everything one invocation of a study is to train.

    Attributes:
        study: its name, such as "table2".
        rows, datasets, seeds: the table.
        base: the training of each data set; its policy and seed are replaced.
        search: how searches are run.
        budget: of each row that has a strategy, data set and seed, in units of a plain training.
        reference: key of the row that the others are compared with; None: the best Beta.

    Raises:
        ValueError: as `check_sources`; a row has a strategy and there is no budget.
    """

    study: str
    rows: Sequence[StudyRow]
    datasets: Sequence[str]
    seeds: Sequence[int]
    base: Mapping[str, TrainingConfig]
    search: SearchSettings
    budget: float | None = None
    reference: str | None = None

    def __post_init__(self) -> None:
        check_sources(self.rows)
        for row in self.rows:
            if row.strategy is not None and self.budget is None:
                raise ValueError(f"row {row.row.key} has a strategy and needs a budget; give one")

    def fixed_cells(self) -> list[Cell]:
        """The cells that wait for nothing, the costly ones first, so that none starts last."""
        return [
            self._cell(row, row.policy, dataset, seed)
            for row in sorted(self.rows, key=lambda row: -row.weight)
            if row.policy is not None
            for dataset in self.datasets
            for seed in self.seeds
        ]

    def searched_cells(self, dataset: str, alpha: float) -> list[Cell]:
        """The final cells of a data set that follow from the search's result."""
        policy = Beta(alpha=alpha)
        rows = [row for row in self.rows if row.searched]
        return [self._cell(row, policy, dataset, seed) for row in rows for seed in self.seeds]

    def followers(self, method: str) -> list[StudyRow]:
        """The frozen rows that draw from what the row `method` learned."""
        return [row for row in self.rows if row.frozen_from == method]

    def frozen_cells(self, source: Cell, quantiles: Sequence[float]) -> list[Cell]:
        """The frozen cells of a training's data set and seed that draw λ from these quantiles."""
        policy = source.training.policy.frozen(tuple(quantiles))
        dataset, seed = source.dataset, source.seed
        return [self._cell(row, policy, dataset, seed) for row in self.followers(source.method)]

    @property
    def table_rows(self) -> list[StudyRow]:
        """The rows that have one training for each data set and seed."""
        return [row for row in self.rows if row.strategy is None]

    @property
    def searches(self) -> bool:
        """Whether a row needs the search."""
        return any(row.searched for row in self.rows)

    def open_searches(self) -> dict[SearchKey, Search]:
        """All searches at their beginning: that for α, then the strategies, the costly ones first.

        A strategy's trainings have the row's own settings, and the seed of their table entry.
        """
        found: dict[SearchKey, Search] = {}
        for dataset in self.datasets if self.searches else ():
            key = SEARCH_METHOD, dataset, self.search.seed
            found[key] = alpha_search(self.base[dataset], self.search)
        strategies = [(row, row.strategy) for row in self.rows if row.strategy is not None]
        budget = self.budget or 0.0
        for row, strategy in sorted(strategies, key=lambda pair: -pair[1].cost(budget)):
            for dataset in self.datasets:
                for seed in self.seeds:
                    base = replace(self.base[dataset], **row.settings(dataset), seed=seed)
                    search = strategy.search(base, row.row.key, self.search, budget)
                    found[row.row.key, dataset, seed] = search
        return found

    def expected(self, method: str) -> int:
        """About how many trainings the search of a row's strategy is going to be."""
        strategies = {row.row.key: row.strategy for row in self.rows}
        strategy = strategies.get(method)
        return 0 if strategy is None else strategy.expected(self.budget or 0.0)

    @property
    def size(self) -> int:
        """Number of cells, trials of searches counted; of strategies about as many."""
        trials = self.search.trials or 0 if self.searches else 0
        of_seeds = sum(self.expected(r.row.key) if r.strategy else 1 for r in self.rows)
        return len(self.datasets) * (of_seeds * len(self.seeds) + trials)

    def _cell(self, row: StudyRow, policy: PolicyConfig, dataset: str, seed: int) -> Cell:
        own = row.settings(dataset)
        return Cell(row.row.key, replace(self.base[dataset], **own, policy=policy, seed=seed))

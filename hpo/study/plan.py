"""What a study trains: its rows, each by its recipe, on every data set and with every seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from core.policies import PolicyConfig, frozen_control
from core.training.config import TrainingConfig
from hpo.cells.cell import NAME, Cell
from hpo.search.configured import configured
from hpo.search.protocol import Search, SearchSettings
from hpo.study.comparisons import NOTHING_DECLARED, Comparisons
from hpo.study.rows import StudyRow, check_sources

if TYPE_CHECKING:
    from hpo.search.space_search import SpaceSearch

SourceKey = tuple[str, int | None]

SearchKey = tuple[str, str, int]


def source_key(training: TrainingConfig) -> SourceKey:
    """Returns which loaded data set a training reads: its name and image size."""
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
        comparisons: what the study declares of them.

    Raises:
        ValueError: as `check_sources`; two rows have one key, or a key cannot name files and runs;
            rows share a search and differ in what is searched; a row has a strategy and there is no
            budget.
    """

    study: str
    rows: Sequence[StudyRow]
    datasets: Sequence[str]
    seeds: Sequence[int]
    base: Mapping[str, TrainingConfig]
    search: SearchSettings
    budget: float | None = None
    comparisons: Comparisons = NOTHING_DECLARED

    def __post_init__(self) -> None:
        _check_keys([row.row.key for row in self.rows])
        check_sources(self.rows)
        for row in self.rows:
            for first in self.waiting(row.row.search)[:1] if row.searched is not None else ():
                if self._searched(row) != self._searched(first):
                    raise ValueError(
                        f"rows {first.row.key} and {row.row.key} share the search {row.row.search} "
                        "and are not to search the same; name another as search of one"
                    )
            if row.strategy is not None and self.budget is None:
                raise ValueError(f"row {row.row.key} has a strategy and needs a budget; give one")

    @property
    def table_rows(self) -> list[StudyRow]:
        """Returns the rows that have one training for each data set and seed."""
        return [row for row in self.rows if row.strategy is None]

    def search_key(self, trial: Cell) -> SearchKey:
        """Returns which search a trial belongs to: its method, data set and first seed."""
        waiting = self.waiting(trial.method)
        seed = self._search_of(waiting[0]).seed if waiting else trial.seed
        return trial.method, trial.dataset, seed

    def waiting(self, search: str) -> list[StudyRow]:
        """Returns the rows that take the result of a search, by the method of its trials."""
        return [row for row in self.rows if row.searched and row.row.search == search]

    def followers(self, method: str) -> list[StudyRow]:
        """Returns the frozen rows that draw from what the row `method` learned."""
        return [row for row in self.rows if row.frozen_from == method]

    def fixed_cells(self) -> list[Cell]:
        """Returns the cells that wait for nothing, the costly ones first, so that none starts
        last."""
        return [
            self._cell(row, row.policy, dataset, seed)
            for row in sorted(self.rows, key=lambda row: -row.weight)
            if row.policy is not None
            for dataset in self.datasets
            for seed in self.seeds
        ]

    def searched_cells(self, key: SearchKey, values: Mapping[str, float]) -> list[Cell]:
        """Returns the final cells that follow from the best values of a search."""
        method, dataset, _ = key
        return [
            self._cell(row, row.searched.policy, dataset, seed, values)
            for row in self.waiting(method)
            if row.searched is not None
            for seed in self.seeds
        ]

    def frozen_cells(
        self, source: Cell, quantiles: Sequence[float], schedule: Sequence[Sequence[float]] = ()
    ) -> list[Cell]:
        """Returns the frozen cells that draw from what a training learned; see `frozen_control`."""
        policy, dataset, seed = source.training.policy, source.dataset, source.seed
        return [
            self._cell(row, frozen_control(policy, quantiles, schedule), dataset, seed)
            for row in self.followers(source.method)
        ]

    def filters(self, method: str) -> list[StudyRow]:
        """Returns the rows that are filtered by what the row `method` predicts, among others."""
        rows = [row for row in self.rows if row.filtered_by is not None]
        return [row for row in rows if method in row.row.needs]

    def fold_cells(self, row: StudyRow, dataset: str, seed: int) -> list[Cell]:
        """Returns the cells whose predictions filter the images of a row."""
        needed = [other for other in self.rows if other.row.key in row.row.needs]
        return [self._cell(r, r.policy, dataset, seed) for r in needed if r.policy is not None]

    def filtered_cell(self, row: StudyRow, dataset: str, seed: int, left_out: str) -> Cell:
        """Returns the cell of a filtered row, which trains without the images `left_out`."""
        assert row.filtered_by is not None
        cell = self._cell(row, row.filtered_by.policy, dataset, seed)
        return replace(cell, training=replace(cell.training, left_out=left_out))

    def open_searches(self) -> dict[SearchKey, Search]:
        """Returns all searches at their beginning: those that rows wait for, then the strategies,
        the costly ones first.

        Trials have the settings of the row; those of a strategy the seed of their table entry too.
        """
        searches: dict[SearchKey, Search] = {}
        for row in self.rows:
            for dataset in self.datasets if row.searched is not None else ():
                key = row.row.search, dataset, self._search_of(row).seed
                if key not in searches:
                    searches[key] = self._open(row, dataset)
        strategies = [(row, row.strategy) for row in self.rows if row.strategy is not None]
        budget = self.budget or 0.0
        for row, strategy in sorted(strategies, key=lambda pair: -pair[1].expected(budget)[1]):
            for dataset in self.datasets:
                for seed in self.seeds:
                    base = replace(row.training_of(self.base[dataset]), seed=seed)
                    search = strategy.search(base, row.row.key, self.search, budget)
                    searches[row.row.key, dataset, seed] = search
        return searches

    def expected(self, method: str) -> int:
        """Returns about how many trainings each search of this method is going to be."""
        for row in self.rows:
            if row.strategy is not None and row.row.key == method:
                return row.strategy.expected(self.budget or 0.0)[0]
        return (self.search.trials or 0) * self.search.replicates

    @property
    def size(self) -> int:
        """Returns the number of cells, with the trials of searches; of strategies about as many."""
        searches = {row.row.search for row in self.rows if row.searched is not None}
        per_seed = sum(self.expected(r.row.key) if r.strategy else 1 for r in self.rows)
        trials = sum(map(self.expected, searches))
        return len(self.datasets) * (per_seed * len(self.seeds) + trials)

    def _searched(self, row: StudyRow) -> tuple[object, ...]:
        return row.recipe, [row.search_settings(dataset) for dataset in self.datasets]

    def _search_of(self, row: StudyRow) -> SearchSettings:
        """Returns how the search of a searched row goes."""
        assert row.searched is not None
        return replace(self.search, seed=self.search.seed + row.searched.shift)

    def _open(self, row: StudyRow, dataset: str) -> SpaceSearch:
        from hpo.search.space_search import SpaceSearch  # Optuna

        assert row.searched is not None
        settings, search = row.search_settings(dataset), self._search_of(row)
        tuned = replace(
            self.base[dataset], **settings, policy=row.searched.policy, seed=search.seed
        )
        return SpaceSearch(tuned, search, row.searched.space, method=row.row.search)

    def _cell(
        self,
        row: StudyRow,
        policy: PolicyConfig,
        dataset: str,
        seed: int,
        values: Mapping[str, float] | None = None,
    ) -> Cell:
        training = replace(row.training_of(self.base[dataset]), policy=policy, seed=seed)
        return Cell(row.row.key, configured(training, values or {}))


def _check_keys(keys: Sequence[str]) -> None:
    """Raises ValueError where a key occurs twice, or is no part of the name of a folder and run."""
    for key, count in Counter(keys).items():
        if count > 1:
            raise ValueError(f"{count} rows have the key {key!r}; trainings are known by it")
        if not NAME.fullmatch(key):
            raise ValueError(
                f"row key {key!r} cannot name files and runs; take letters, digits, _ - + @ and a "
                "dot, which is not in front"
            )

"""What a study trains: its rows, each with a policy of its own or one that a search finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from typing import Any

from core.policies.config import DISCRIMINATOR
from core.training.config import PolicyConfig, PolicyKind, TrainingConfig
from hpo.cells.cell import Cell
from hpo.report import Row
from hpo.search.budget import LEARNED, weight
from hpo.search.protocol import Search, SearchSettings
from hpo.search.space_search import SEARCH_METHOD, alpha_search
from hpo.search.strategies import Strategy


@dataclass(frozen=True)
class SemiRow:
    """How a row of a semi-supervised study trains.

    Attributes:
        method: of `hpo.semi_presets.METHODS`; the preset says with which settings.
        own: fields of `SemiSupervisedConfig` that this row has for itself.
        paper_errors: the paper's own number in percent, by data set and number of labels.
    """

    method: str
    own: Mapping[str, Any] = field(default_factory=dict)
    paper_errors: Mapping[tuple[str, int], float] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyRow:
    """A row of the table and how its trainings are configured.

    Attributes:
        row: how it is reported.
        policy: its policy, or None where the search finds α of Beta(α, α), or where it is frozen.
        training: settings of `TrainingConfig` that this row has for itself, such as
            {"meta_size": 50}; they go before the preset's and the command line's.
        frozen_from: key of the row of the same study whose λ it draws: those that the training of
            the same data set and seed ended with (see `core.Frozen`), as soon as it has.
        strategy: how it spends the study's budget, each seed for itself, instead of one training.
        semi: how it trains with few labels; `hpo.semi_rows` makes settings of it.
        by_dataset: more settings of its own, by data set.

    Raises:
        ValueError: training names what is no setting, or one that all rows share; a row that
            competes for the best Beta trains on the images that it is chosen by; a frozen row has
            a policy.
    """

    row: Row
    policy: PolicyConfig | None
    training: Mapping[str, Any] = field(default_factory=dict)
    frozen_from: str | None = None
    strategy: Strategy | None = None
    semi: SemiRow | None = None
    by_dataset: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own = [f.name for f in fields(TrainingConfig) if f.name not in _SHARED]
        for name in chain(self.training, *self.by_dataset.values()):
            if name not in own:
                why = "is shared by all rows" if name in _SHARED else "is no setting of a training"
                raise ValueError(
                    f"row {self.row.key}: {name!r} {why}; a row can have its own {', '.join(own)}"
                )
        if self.meta_in_training and self.row.family == "beta":
            raise ValueError(
                f"row {self.row.key} trains on the meta-validation images, so its error on them "
                'cannot choose the best Beta; give it the family "extra"'
            )
        if self.frozen_from is not None and self.policy is not None:
            raise ValueError(
                f"row {self.row.key} draws λ from what {self.frozen_from} learned: it has no use "
                f"for the policy {self.policy.kind}"
            )
        if self.strategy is not None and (self.policy is not None or self.frozen_from is not None):
            raise ValueError(
                f"row {self.row.key} has a strategy of its own: no policy, and nothing to freeze"
            )

    def settings(self, dataset: str) -> dict[str, Any]:
        """What its trainings on a data set have for themselves."""
        return {**self.by_dataset.get(dataset, {}), **self.training}

    @property
    def meta_in_training(self) -> bool:
        """Whether it trains on the meta-validation images too."""
        return bool(self.training.get("meta_in_training", False))

    @property
    def searched(self) -> bool:
        """Whether the row needs the search's result."""
        return self.policy is None and self.frozen_from is None and self.strategy is None

    @property
    def weight(self) -> float:
        """Rough cost in units of a plain training, to start the long ones first."""
        semi = 1.0 if self.semi is None else _SEMI_WEIGHTS.get(self.semi.method, 1.0)
        return semi if self.policy is None else semi * weight(self.policy)


def with_meta_images(row: StudyRow) -> StudyRow:
    """The row trained on the meta-validation images too, as a row of its own.

    It is of no family that competes for the best Beta: its meta-validation error is a training
    error.

    Raises:
        ValueError: the row's policy learns from those images, or its strategy selects by them, so
            they cannot train as well.
    """
    key = row.row.key
    if row.policy is not None and row.policy.kind in LEARNED:
        raise ValueError(f"row {key} learns from the meta-validation images: no {key}{META_SUFFIX}")
    if row.strategy is not None:
        raise ValueError(f"row {key} selects by the meta-validation images: no {key}{META_SUFFIX}")
    label = f"{row.row.label} + meta images"
    own = replace(
        row.row,
        key=key + META_SUFFIX,
        label=label,
        family="extra",
        paper_error={},
        control_of=None,
    )
    return replace(row, row=own, training={**row.training, "meta_in_training": True})


def controls(row: StudyRow, *, plain: bool = False) -> list[StudyRow]:
    """The two controls of a learned row that share everything with it but what they take away.

    The placebo moves λ by the hypergradients of other samples of the batch. The frozen row draws λ
    from the distribution that learning ended with, and learns nothing. (The third control, the best
    Beta, is among a study's own rows.) AdaMixUp has no hypergradients, and the frozen row alone.

    Args:
        row: a row with a policy that learns.
        plain: their keys are "placebo" and "frozen", without the row's key before: of a study's
            first learned row.

    Raises:
        ValueError: the row's policy learns nothing that could be taken away.
    """
    kind = row.policy.kind if row.policy is not None else "beta"
    if row.policy is None or kind not in (*_PLACEBOS, *DISCRIMINATOR):
        raise ValueError(
            f"row {row.row.key} of policy {kind} has no controls; "
            f"{', '.join((*_PLACEBOS, *DISCRIMINATOR))} do"
        )
    start, label = ("", "") if plain else (f"{row.row.key}-", f" of {row.row.label}")
    frozen = Row(
        f"{start}frozen",
        f"Frozen λ{label}",
        f"lam as {row.row.key} ended",
        "frozen",
        control_of=row.row.key,
    )
    frozen_row = replace(row, row=frozen, policy=None, frozen_from=row.row.key)
    if kind not in _PLACEBOS:
        return [frozen_row]
    placebo = Row(
        f"{start}placebo",
        f"Placebo{label}",
        f"{row.row.setting}, hypergradients permuted",
        "placebo",
        control_of=row.row.key,
    )
    return [
        replace(row, row=placebo, policy=replace(row.policy, kind=_PLACEBOS[kind])),
        frozen_row,
    ]


def frozen_policy(source: PolicyConfig, quantiles: Sequence[float]) -> PolicyConfig:
    """The policy of a frozen row: λ drawn from these quantiles, of AdaMixUp all else as it was."""
    if source.kind in DISCRIMINATOR:
        return replace(source, quantiles=tuple(quantiles))
    return PolicyConfig("frozen", quantiles=tuple(quantiles))


def check_sources(rows: Sequence[StudyRow]) -> None:
    """Raises ValueError where a frozen row's source is not among the rows, or learns nothing."""
    by_key = {row.row.key: row for row in rows}
    for row in rows:
        source, key = row.frozen_from, row.row.key
        if source is None:
            continue
        if source not in by_key:
            raise ValueError(
                f"row {key} draws λ from what row {source} learned, which is not among the rows; "
                f"add it: --rows {source},{key}"
            )
        if by_key[source].policy is None:
            raise ValueError(f"row {key} cannot draw λ from row {source}, which has no policy")


_PLACEBOS: Mapping[PolicyKind, PolicyKind] = {"learned": "placebo", "scores": "scores-placebo"}
"""By kind of policy the kind of its placebo."""

_SEMI_WEIGHTS = {"supervised-only": 0.5, "mean-teacher": 1.5, "pi-model": 1.5, "mixmatch": 2.0}
_SEMI_WEIGHTS |= {"vat": 2.5, "vat-em": 2.5}
"""Rough cost of a step, in units of one with pseudo-labels."""

_SHARED = ("dataset", "image_size", "policy", "seed")
"""Of the settings of a training those that a row cannot have for itself."""

META_SUFFIX = "+meta"
"""Of the key of a row that trains on the meta-validation images too."""

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
        policy = PolicyConfig("beta", alpha=alpha)
        rows = [row for row in self.rows if row.searched]
        return [self._cell(row, policy, dataset, seed) for row in rows for seed in self.seeds]

    def followers(self, method: str) -> list[StudyRow]:
        """The frozen rows that draw from what the row `method` learned."""
        return [row for row in self.rows if row.frozen_from == method]

    def frozen_cells(self, source: Cell, quantiles: Sequence[float]) -> list[Cell]:
        """The frozen cells of a training's data set and seed that draw λ from these quantiles."""
        policy = frozen_policy(source.training.policy, quantiles)
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

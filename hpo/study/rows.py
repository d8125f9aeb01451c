"""The rows of a study: how each is reported, and how its trainings are configured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from typing import Any, Literal

from core.policies import PolicyConfig
from core.training.config import TrainingConfig
from hpo.search.strategies import Strategy
from hpo.study.recipes import FilteredBy, FrozenFrom, Recipe, Searched

Family = Literal["none", "beta", "fixed", "learned", "placebo", "frozen", "extra"]

CONTROLS = ("placebo", "frozen")
"""Families of rows that nobody claims to be better."""


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        key: method of the cells that belong to it, such as "beta-1".
        label: for people, such as "MixUp (α = 1)".
        setting: for programs, such as "alpha=1".
        family: "none", the unit of cost, and "beta" rows compete for the best Beta.
        paper_error: the paper's own number in percent, by data set.
        control_of: of a placebo and of a frozen row the key of the learned row that it belongs to.
        counterpart: key of the row that lacks what this one adds, such as a learned λ or an early
            stop, and shares all else; it stands for the best Beta among its controls.
        architecture: of a study of several, in which rows are compared with rows of their own; ""
            where all rows have one.
        base: key of the row that it varies, in architecture or training images; "" of all others.
        search: method of the trials whose result it takes and whose cost it bears; "" of none.
        searched: names of the settings that they search.
        needs: keys of rows whose predictions it needs; it bears the cost of their trainings.
        draws_from: key of the row that it draws λ from and whose cost it bears, by its recipe.

    Examples:
        >>> import hpo
        >>> hpo.Row("beta-1", "MixUp (α = 1)", "alpha=1", "beta", {"cifar10": 4.57}).key
        'beta-1'
    """

    key: str
    label: str
    setting: str
    family: Family
    paper_error: Mapping[str, float] = field(default_factory=dict)
    control_of: str | None = None
    counterpart: str | None = None
    architecture: str = ""
    base: str = ""
    search: str = ""
    searched: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    draws_from: str = ""


@dataclass(frozen=True)
class SemiRow:
    """A `SemiRow` says how a row of a semi-supervised study trains.

    Attributes:
        method: of `hpo.study.few_label_presets.METHODS`; the preset says with which settings.
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
        row: how it is reported. The search of a searched row bears the row's key unless it names
            one, which rows share that name the same.
        recipe: how it trains.
        training: settings of `TrainingConfig` that this row has for itself, such as
            {"meta_size": 50}; they go before the preset's and the command line's.
        semi: how it trains with few labels; `hpo.study.few_label_rows` makes settings of it.
        by_dataset: more settings of its own, by data set.
        longer: it trains so many times the epochs of the others, rounded; milestones come later.

    Raises:
        ValueError: training names what is no setting, or one that all rows share; a row that
            competes for the best Beta trains on the images that it is chosen by.

    Examples:
        >>> import core, hpo
        >>> row = hpo.Row("slow", "Half the rate", "lr=0.05", "extra")
        >>> hpo.StudyRow(row, core.Beta(alpha=1.0), {"lr": 0.05}, longer=2.0).settings("digits")
        {'lr': 0.05}
    """

    row: Row
    recipe: Recipe
    training: Mapping[str, Any] = field(default_factory=dict)
    semi: SemiRow | None = None
    by_dataset: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    longer: float = 1.0

    def __post_init__(self) -> None:
        settings = [f.name for f in fields(TrainingConfig) if f.name not in _SHARED]
        for name in chain(self.training, *self.by_dataset.values()):
            if name not in settings:
                why = "is shared by all rows" if name in _SHARED else "is no setting of a training"
                raise ValueError(
                    f"row {self.row.key}: {name!r} {why}; a row can have its own "
                    f"{', '.join(settings)}"
                )
        if self.meta_in_training and self.row.family in ("none", "beta"):
            raise ValueError(
                f"row {self.row.key} trains on the meta-validation images, so its error on them "
                'cannot choose the best Beta; give it the family "extra"'
            )
        if self.searched is not None:
            search, names = self.row.search or self.row.key, tuple(self.searched.space)
            object.__setattr__(self, "row", replace(self.row, search=search, searched=names))
        if self.frozen_from is not None:
            object.__setattr__(self, "row", replace(self.row, draws_from=self.frozen_from))
        if self.filtered_by is not None:
            object.__setattr__(self, "row", replace(self.row, needs=self.filtered_by.folds))

    @property
    def policy(self) -> PolicyConfig | None:
        """Returns the policy of a row that trains with one from the start."""
        return self.recipe if isinstance(self.recipe, PolicyConfig) else None

    @property
    def searched(self) -> Searched | None:
        """Returns the recipe of a row that waits for a search."""
        return self.recipe if isinstance(self.recipe, Searched) else None

    @property
    def frozen_from(self) -> str | None:
        """Returns the key of the row that a frozen row draws from."""
        return self.recipe.source if isinstance(self.recipe, FrozenFrom) else None

    @property
    def filtered_by(self) -> FilteredBy | None:
        """Returns the recipe of a row that waits for the predictions of others."""
        return self.recipe if isinstance(self.recipe, FilteredBy) else None

    @property
    def strategy(self) -> Strategy | None:
        """Returns the recipe of a row that spends a budget."""
        recipe = self.recipe
        if isinstance(recipe, PolicyConfig | Searched | FrozenFrom | FilteredBy):
            return None
        return recipe

    @property
    def meta_in_training(self) -> bool:
        """Says whether it trains on the meta-validation images too."""
        return bool(self.training.get("meta_in_training", False))

    @property
    def differs_in_policy_alone(self) -> bool:
        """Says whether it trains as the study's settings say, and for as long."""
        return not (self.training or self.by_dataset or self.semi) and self.longer == 1.0

    @property
    def semi_weight(self) -> float:
        """Returns roughly what a step of its method costs, in units of one with pseudo-labels."""
        return 1.0 if self.semi is None else _SEMI_WEIGHTS.get(self.semi.method, 1.0)

    @property
    def weight(self) -> float:
        """Returns roughly what it costs in units of a plain training, to start long ones first."""
        return self.longer * self.semi_weight * (1.0 if self.policy is None else self.policy.cost)

    def settings(self, dataset: str) -> dict[str, Any]:
        """Returns what its trainings on a data set have for themselves; of a loss its strength."""
        own = {**self.by_dataset.get(dataset, {}), **self.training}
        return {"loss_strength": None, **own} if "loss" in own else own

    def training_of(self, base: TrainingConfig) -> TrainingConfig:
        """Returns the training of its data set that all rows share, with this row's settings."""
        training = replace(base, **self.settings(base.dataset))
        ends = [round(self.longer * e) for e in (training.epochs, *training.milestones)]
        return replace(training, epochs=ends[0], milestones=tuple(ends[1:]))

    def has_trained(self, training: TrainingConfig) -> bool:
        """Says whether a training has the row's policy and settings of its own.

        Its epochs are not compared: they are those of a preset, or fitted to the data.
        """
        own = self.settings(training.dataset)
        return self.policy in (None, training.policy) and all(
            getattr(training, name) == value for name, value in own.items() if name != "epochs"
        )

    def search_settings(self, dataset: str) -> dict[str, Any]:
        """Returns what trials of its search have, which never train on what they are chosen by."""
        own = self.settings(dataset)
        return {n: v for n, v in own.items() if n not in ("meta_in_training", "equal_steps")}


def controls(row: StudyRow, *, plain: bool = False) -> list[StudyRow]:
    """Returns the controls of a learned row, which share all with it but what they take away.

    In the placebo no sample gets what was learned for it: it moves λ by the hypergradients of
    others in the batch, or takes their scores or weights. The frozen row draws λ from the
    distribution that learning had at that time of the training, and learns nothing. (The third
    control, the best Beta, is among a study's own rows.) AdaMixUp has no hypergradients, and the
    frozen row alone; policies that learn weights of samples have no λ, and the placebo alone.

    Args:
        row: a row with a policy that learns.
        plain: their keys are "placebo" and "frozen", without the row's key before: of a study's
            first learned row.

    Raises:
        ValueError: the row's policy learns nothing that could be taken away.

    Examples:
        >>> import core, hpo
        >>> row = hpo.Row("metamixup", "MetaMixUp", "learned λ", "learned")
        >>> learned = hpo.StudyRow(row, core.policies.LearnedConfig())
        >>> [control.row.key for control in hpo.controls(learned)]
        ['metamixup-placebo', 'metamixup-frozen']
    """
    if row.policy is None:
        raise ValueError(f"row {row.row.key} has no controls: it has no policy of its own")
    start, label = ("", "") if plain else (f"{row.row.key}-", f" of {row.row.label}")

    def control(name: str, family: Family, setting: str, recipe: Recipe) -> StudyRow:
        key = f"{start}{family}"
        shown = Row(key, f"{name}{label}", setting, family, control_of=row.row.key)
        return replace(row, row=shown, recipe=recipe)

    rows = []
    try:
        if row.policy.learns:
            setting = f"{row.row.setting}, {row.policy.placebo_setting}"
            rows.append(control("Placebo", "placebo", setting, row.policy.placebo()))
        row.policy.frozen(EVENLY)
    except ValueError as error:
        if not rows:
            raise ValueError(f"row {row.row.key} has no controls: {error}") from error
        return rows
    held = f"lam as {row.row.key} had it"
    return [*rows, control("Frozen λ", "frozen", held, FrozenFrom(row.row.key))]


def check_sources(rows: Sequence[StudyRow]) -> None:
    """Raises ValueError where a frozen row's source is not among the rows, or learns nothing."""
    by_key = {row.row.key: row for row in rows}
    for row in rows:
        source, key = row.frozen_from, row.row.key
        missing = [fold for fold in row.row.needs if fold not in by_key]
        if missing:
            raise ValueError(
                f"row {key} needs what the rows {', '.join(row.row.needs)} predict, and "
                f"{missing[0]} is not among the rows; add them: "
                f"{','.join((*row.row.needs, key))}"
            )
        if source is None:
            continue
        if source not in by_key:
            raise ValueError(
                f"row {key} draws λ from what row {source} learned, which is not among the rows; "
                f"add it: {source},{key}"
            )
        policy = by_key[source].policy
        if policy is None:
            raise ValueError(f"row {key} cannot draw λ from row {source}, which has no policy")
        policy.frozen(EVENLY)  # refuses where there is nothing to draw from


EVENLY = (0.0, 1.0)
"""Quantiles of a frozen policy that stands for one whose quantiles are not known yet."""

_SEMI_WEIGHTS = {"supervised-only": 0.5, "mean-teacher": 1.5, "pi-model": 1.5, "mixmatch": 2.0}
_SEMI_WEIGHTS |= {"vat": 2.5, "vat-em": 2.5}
"""Rough cost of a step, in units of one with pseudo-labels."""

_SHARED = ("dataset", "image_size", "policy", "seed")
"""Of the settings of a training those that a row cannot have for itself."""


def grid_cost(rows: Sequence[StudyRow]) -> float:
    """Returns what the grid costs for each seed, in units of a plain training."""
    return sum(row.policy.cost for row in grid_rows(rows) if row.policy is not None)


def grid_rows(rows: Sequence[StudyRow]) -> list[StudyRow]:
    """Returns the rows that a search of the same study competes with: those that are no control."""
    return [row for row in rows if row.policy is not None and row.row.control_of is None]

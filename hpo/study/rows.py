"""The rows of a study: how each is reported, and how its trainings are configured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from typing import Any, Literal

from core.policies import PolicyConfig
from core.training.config import TrainingConfig
from hpo.search.strategies import Strategy


@dataclass(frozen=True)
class SemiRow:
    """How a row of a semi-supervised study trains.

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
        row: how it is reported.
        policy: its policy, or None where the search finds α of Beta(α, α), or where it is frozen.
        training: settings of `TrainingConfig` that this row has for itself, such as
            {"meta_size": 50}; they go before the preset's and the command line's.
        frozen_from: key of the row of the same study whose λ it draws: those that the training of
            the same data set and seed ended with (see `core.Frozen`), as soon as it has.
        strategy: how it spends the study's budget, each seed for itself, instead of one training.
        semi: how it trains with few labels; `hpo.study.few_label_rows` makes settings of it.
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
        return semi if self.policy is None else semi * self.policy.cost


def with_meta_images(row: StudyRow) -> StudyRow:
    """The row trained on the meta-validation images too, as a row of its own.

    It is of no family that competes for the best Beta: its meta-validation error is a training
    error.

    Raises:
        ValueError: the row's policy learns from those images, or its strategy selects by them, so
            they cannot train as well.
    """
    key = row.row.key
    if row.policy is not None and row.policy.learns:
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
    if row.policy is None:
        raise ValueError(f"row {row.row.key} has no controls: it has no policy of its own")
    try:
        row.policy.frozen(EVENLY)
        permuted = row.policy.placebo() if row.policy.learns else None
    except ValueError as error:
        raise ValueError(f"row {row.row.key} has no controls: {error}") from error
    start, label = ("", "") if plain else (f"{row.row.key}-", f" of {row.row.label}")
    frozen = Row(
        f"{start}frozen",
        f"Frozen λ{label}",
        f"lam as {row.row.key} ended",
        "frozen",
        control_of=row.row.key,
    )
    frozen_row = replace(row, row=frozen, policy=None, frozen_from=row.row.key)
    if permuted is None:
        return [frozen_row]
    placebo = Row(
        f"{start}placebo",
        f"Placebo{label}",
        f"{row.row.setting}, hypergradients permuted",
        "placebo",
        control_of=row.row.key,
    )
    return [replace(row, row=placebo, policy=permuted), frozen_row]


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

META_SUFFIX = "+meta"
"""Of the key of a row that trains on the meta-validation images too."""

Family = Literal["none", "beta", "fixed", "learned", "placebo", "frozen", "extra"]


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        key: method of the cells that belong to it, such as "beta-1". A row whose key is that of
            search trials, or that key, a plus sign and more, needed the search and bears its cost.
        label: for people, such as "MixUp (α = 1)".
        setting: for programs, such as "alpha=1".
        family: "beta" rows compete for the best Beta; "none" is the unit of cost.
        paper_error: the paper's own number in percent, by data set.
        control_of: of a placebo and of a frozen row the key of the learned row that it belongs to;
            a frozen row bears the cost of that row's training, which it needs.
        counterpart: of a learned row the key of the one that draws λ from a Beta distribution and
            shares all else, its third control; None: the best Beta is.
        architecture: of a study of several, in which rows are compared with rows of their own; ""
            where all rows have one.
    """

    key: str
    label: str
    setting: str
    family: Family
    paper_error: Mapping[str, float] = field(default_factory=dict)
    control_of: str | None = None
    counterpart: str | None = None
    architecture: str = ""


def grid_cost(rows: Sequence[StudyRow]) -> float:
    """What the grid costs for each seed, in units of a plain training."""
    return sum(row.policy.cost for row in grid_rows(rows) if row.policy is not None)


def grid_rows(rows: Sequence[StudyRow]) -> list[StudyRow]:
    """The rows that a search of the same study competes with: those that are no control."""
    return [
        row
        for row in rows
        if row.strategy is None and row.policy is not None and row.row.control_of is None
    ]

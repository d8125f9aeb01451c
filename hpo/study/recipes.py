"""The recipes by which a row trains, beside a policy and a strategy."""

from __future__ import annotations

from dataclasses import dataclass

from core.policies import Beta, PolicyConfig
from hpo.search.spaces import BETA_ALPHA, Space
from hpo.search.strategies import Strategy


@dataclass(frozen=True)
class Searched:
    """A recipe: one search a data set, then a training a seed with the best values it found.

    Attributes:
        policy: what the values are put into, with those of the training.
        space: over which settings, see `hpo.search.configured`.
        shift: added to the seed of the study's searches. Of several searches for the same, each
            then has draws and trainings of its own.

    Examples:
        >>> import core, hpo
        >>> from hpo.search import Float
        >>> recipe = hpo.Searched(core.Beta(alpha=1.0), {"alpha": Float(0.1, 4.0, log=True)})
        >>> row = hpo.Row("mine", "α searched", "alpha searched", "beta")
        >>> hpo.StudyRow(row, recipe).row.searched
        ('alpha',)
    """

    policy: PolicyConfig
    space: Space
    shift: int = 0


SEARCHED_ALPHA = Searched(Beta(alpha=1.0), BETA_ALPHA)
"""α of Beta(α, α), found by a search."""


@dataclass(frozen=True)
class FrozenFrom:
    """A recipe: λ is drawn from the distributions that another row's training had over time.

    Attributes:
        source: key of that row of the same study; each training waits for the one of its own data
            set and seed (see `core.policies.frozen_control`).

    Examples:
        >>> import hpo
        >>> row = hpo.Row("frozen", "Frozen λ", "lam as metamixup had it", "frozen")
        >>> hpo.StudyRow(row, hpo.FrozenFrom("metamixup")).frozen_from
        'metamixup'
    """

    source: str


@dataclass(frozen=True)
class FilteredBy:
    """A recipe: training without the images whose labels cleanlab suspects.

    Attributes:
        folds: keys of the rows of the same study that each hold out one fold; each training waits
            for those of its own data set and seed.
        policy: how it trains then.

    Examples:
        >>> import core, hpo
        >>> row = hpo.Row("clean", "Without suspects", "filtered", "extra")
        >>> recipe = hpo.FilteredBy(("fold-0", "fold-1"), core.NoMix())
        >>> hpo.StudyRow(row, recipe).row.needs
        ('fold-0', 'fold-1')
    """

    folds: tuple[str, ...]
    policy: PolicyConfig


Recipe = PolicyConfig | Searched | FrozenFrom | FilteredBy | Strategy
"""How a row trains: with a policy, with what a search finds, frozen from another row, without what
others suspect, or by a strategy that spends the study's budget, each seed for itself."""

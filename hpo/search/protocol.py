"""What every search can do, and for how long it searches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from hpo.cells.cell import Cell
from hpo.cells.record import Status
from hpo.cells.result import Result

SEARCH_METHOD = "beta-search"
"""Method of the trials of the search for α: rows that use its result share it."""


class Search(Protocol):
    """Anything that trains cells and decides from what became of them.

    Most hand one out after another; a search in rounds has several running.
    """

    @property
    def running(self) -> bool:
        """Says whether the next cell waits for one that was handed out and has not ended."""

    @property
    def done(self) -> bool:
        """Says whether nothing runs and nothing more is to be trained."""

    def next(self) -> Cell:
        """Returns the next cell. Neither `running` nor `done` may be true."""

    def report(self, epochs: Iterable[Mapping[str, float]], cell: Cell | None = None) -> int | None:
        """Takes in epochs of a running cell; returns the one to stop it after, None to go on.

        The cell may be left out where one runs.
        """

    def end(self, status: Status, result: Result, cell: Cell | None = None) -> None:
        """Takes in how a running cell ended; it may be left out where one runs."""


class SearchError(RuntimeError):
    """A search ended without a single finished trial."""


@dataclass(frozen=True)
class SearchSettings:
    """Settings say how long to search.

    Attributes:
        trials: trainings started, those stopped early counted; None where a budget ends the search.
        startup: of them drawn at random before TPE has something to learn from.
        min_epochs: epochs before the first halving.
        reduction: one in so many goes on at each halving; the rungs are min_epochs·reduction^k.
        seed: of the sampler; trial k draws with seed + k. The search for α also trains with it: it
            is no seed of the table's, so the trials share neither initial weights nor split with
            any row they are compared in.
        sampler: "tpe" or "random".
        halving: whether trials that are behind are stopped.
        parallel: trials of a round. They are suggested together, from the rounds before, and
            stopped by comparison with those; so the outcome depends on this number and the seed,
            whatever ends first.
        replicates: trainings of each trial, with seeds in a row; a trial's value is their mean. Of
            several none is stopped early.
        with_zero: α may be 0 too, no mixing, where the policy takes it.
        ties_by_loss: of trials with the same error the one with the lower meta-validation loss is
            the best, not the first.
        own_draws: each data set has draws of its own. Without it all begin with the same α.
    """

    trials: int | None = 12
    startup: int = 4
    min_epochs: int = 3
    reduction: int = 3
    seed: int = 10_000
    sampler: Literal["tpe", "random"] = "tpe"
    halving: bool = True
    parallel: int = 1
    replicates: int = 1
    with_zero: bool = False
    ties_by_loss: bool = False
    own_draws: bool = False

    def __post_init__(self) -> None:
        for name in ("trials", "startup", "min_epochs", "parallel", "replicates"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"search {name} must be at least 1, got {value}")
        if self.reduction < 2:
            raise ValueError(f"search reduction must be at least 2, got {self.reduction}")
        if self.sampler not in ("tpe", "random"):
            raise ValueError(f"search sampler must be tpe or random, got {self.sampler!r}")

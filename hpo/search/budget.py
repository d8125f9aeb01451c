"""What trainings cost by expectation: a budget that decides alike whatever a clock measures."""

from __future__ import annotations

from core.training.config import TrainingConfig
from hpo.cells.record import Status
from hpo.cells.result import Result

ROUNDING = 1e-9
"""Of sums of units: ten tenths of a budget spend it."""


def units(training: TrainingConfig, epochs: float) -> float:
    """Returns the rough cost of so many epochs, in units of a plain training as long as this."""
    return training.policy.cost * epochs / training.epochs


def failed_epochs(status: Status) -> int:
    """Returns how many epochs were trained that no result has: the one that failed."""
    return int(status in ("diverged", "crashed"))


class Budget:
    """A budget is how much may be trained, in units of a plain training.

    Measured seconds decide nothing: they differ from run to run, and a study that is killed and
    started again must stop where it would have.

    Args:
        total: in units; what is begun before it is spent is trained to its end.

    Raises:
        ValueError: it is not positive.
    """

    def __init__(self, total: float):
        if not 0 < total < float("inf"):
            raise ValueError(f"budget must be positive and finite, got {total}")
        self.total = total
        self._used = 0.0

    @property
    def spent(self) -> bool:
        """Says whether nothing more may begin."""
        return self._used > self.total - ROUNDING

    def charge(self, training: TrainingConfig, status: Status, result: Result) -> None:
        """Counts a training that ended; the epoch in which one failed was trained too."""
        self._used += units(training, result.epochs + failed_epochs(status))

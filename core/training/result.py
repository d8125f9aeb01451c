"""What a training gave, as plain values, and the error of one that diverged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from core.analysis.findings import Findings

if TYPE_CHECKING:  # in typing itself from Python 3.11 on
    from typing_extensions import Self

Metrics = dict[str, float]


class DivergenceError(RuntimeError):
    """The loss became NaN or infinite. `history` holds the epochs before, `epochs` is how many were
    trained before the one that failed: as many, but of a population those of all its members.

    Examples:
        >>> from core.training import DivergenceError
        >>> DivergenceError("the loss became NaN", [{"epoch": 1.0}]).history
        [{'epoch': 1.0}]
    """

    def __init__(self, message: str, history: list[Metrics], epochs: int | None = None):
        super().__init__(message)
        self.history = history
        self.epochs = len(history) if epochs is None else epochs

    def __reduce__(self) -> tuple[Any, ...]:
        # The inherited one leaves `history` out, and the error could not cross processes.
        return type(self), (str(self), self.history, self.epochs)


def check_convergence(
    epoch: int, train_loss: float, val_loss: float, *, lr: float, history: list[Metrics]
) -> None:
    """Raises `DivergenceError` unless both losses of an epoch (from 1) are finite."""
    if not (math.isfinite(train_loss) and math.isfinite(val_loss)):
        raise DivergenceError(
            f"training diverged in epoch {epoch}: training loss {train_loss}, validation loss "
            f"{val_loss}; lower the learning rate (now {lr})",
            history,
        )


@dataclass(frozen=True)
class TrainingResult:
    """What one training gave.

    Attributes:
        test_error, test_top5_error: percent; top-5 only for 100 classes or more.
        val_error: percent, on the meta-validation images after the last epoch.
        train_loss: mean loss of the mixed batches in the last epoch; of AdaMixUp the sum of its
            two losses.
        train_seconds: wall time of the training steps, evaluation and checkpoints not counted.
        samples_seen: samples sent forward in training, virtual and validation passes counted.
        epochs: epochs trained.
        parameters: number of parameters of the model.
        history: one dictionary an epoch; see `fit`.
        lam_histogram, lam_histogram_first: counts of λ in 20 bins, last and first epoch.
        median_error: percent; of semi-supervised trainings the median test error over the last 20
            epochs, as MixMatch reports it; else None.
        lam_quantiles: λ of the last epoch at the levels 0, 0.01, …, 1, what `Frozen` draws from; in
            results that were stored before, empty.
        lam_schedule: λ in each of at most 12 equal parts of the training at the levels 0, 0.02, …,
            1, what `FrozenSchedule` draws from; see `core.training.statistics.LambdaSchedule`. In
            results that were stored before, empty.
        scores: of policies that keep them, the score of each training image, to five digits, in the
            order of `core.training.prepared_data.prepare_data(...).train`; of others, and in
            results that were stored before, None.
        probabilities: of a training that holds out a fold, [M, C]: its prediction for each of these
            images, to five digits, in the order of
            `core.training.prepared_data.draw_labels(...).held_out`; else None.
        policy_parameters: number of parameters of the policy's own networks.
        findings: of what `TrainingConfig.analysis` asks for; else None.

    Examples:
        >>> import core
        >>> from core.training.fit import fit
        >>> config = core.training.TrainingConfig(
        ...     "digits", "digits_cnn", core.Beta(1.0), epochs=1, meta_size=100, train_size=100
        ... )
        >>> result = fit(config)
        >>> result.epochs, result.samples_seen, 0 <= result.test_error <= 100
        (1, 100, True)
    """

    test_error: float
    test_top5_error: float | None
    val_error: float
    train_loss: float
    train_seconds: float
    samples_seen: int
    epochs: int
    parameters: int
    history: list[Metrics]
    lam_histogram: list[int]
    lam_histogram_first: list[int]
    lam_quantiles: list[float] = field(default_factory=list)
    lam_schedule: list[list[float]] = field(default_factory=list)
    scores: list[float] | None = None
    probabilities: list[list[float]] | None = None
    median_error: float | None = None
    policy_parameters: int = 0
    findings: Findings | None = None

    @property
    def analysis(self) -> Findings:
        """Returns what the analysis found; empty where none was asked for."""
        return self.findings or Findings()

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Reads what `to_dict` wrote.

        Raises:
            ValueError: an error is no number.
        """
        values = dict(data)
        for name in ("test_error", "val_error"):
            if not isinstance(values[name], (int, float)) or not math.isfinite(values[name]):
                raise ValueError(f"{name} is {values[name]!r}, and no number")
        if values.get("findings") is not None:
            values["findings"] = Findings(**values["findings"])
        return cls(**values)

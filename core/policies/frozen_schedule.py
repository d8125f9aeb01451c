"""The frozen control over time: λ drawn, in each part of the training, as learning had it there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from core.policies.config import PolicyConfig, register_policy
from core.policies.drawn import Frozen, check_quantiles
from core.policies.protocol import Policy, StepInput
from core.policies.stored_state import check_stored

if TYPE_CHECKING:
    from core.mixing.interpolation import Interpolation
    from core.models import ImageClassifier


class FrozenSchedule(Policy):
    """λ of each sample drawn from a distribution that changes in the course of the training.

    With the distributions that learning had, this is all of it but the choice which sample gets
    which λ. The training is cut into equal parts, one a distribution; `at` says how far it is, and
    calls are counted from there. Where nobody says it, λ is drawn from the last one.

    Args:
        schedule: quantiles of each part, as `Frozen` takes them.

    Examples:
        >>> import core
        >>> model, optimizer, batch, _ = core.testing.toy_problem()

        >>> policy = core.policies.FrozenSchedule([(0.0, 1.0), (0.5, 0.5)])  # any λ, then 1/2
        >>> policy.at(9, 10)
        >>> policy(model, optimizer, batch).lam.unique().tolist()
        [0.5]
    """

    def __init__(self, schedule: Sequence[tuple[float, ...]]):
        check_schedule(schedule)
        self._parts = [Frozen(quantiles) for quantiles in schedule]
        self._step, self._steps = 1, 1

    def at(self, step: int, steps: int) -> None:
        self._step, self._steps = step, steps

    def interpolate(self, step: StepInput) -> Interpolation:
        """Draws as `Frozen` does; see `Policy`."""
        part = min(len(self._parts) - 1, len(self._parts) * self._step // self._steps)
        given = self._parts[part].interpolate(step)
        self._step += 1
        return given

    def state_dict(self) -> dict[str, Any]:
        """Returns how far the training is."""
        return {"step": self._step, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_stored(self, state, FrozenSchedule)
        self._step, self._steps = int(state["step"]), int(state["steps"])


@register_policy
@dataclass(frozen=True)
class FrozenScheduleConfig(PolicyConfig):
    """The frozen control over time; see `FrozenSchedule`.

    Attributes:
        schedule: of each part of the training the quantiles of λ; `TrainingResult.lam_schedule`.

    Examples:
        >>> import core
        >>> config = core.policies.FrozenScheduleConfig(schedule=((0.0, 1.0), (0.5, 0.5)))
        >>> type(config.build()).__name__
        'FrozenSchedule'
    """

    schedule: tuple[tuple[float, ...], ...]
    kinds: ClassVar = {"frozen-schedule": {}}
    needs_meta_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_schedule(self.schedule)

    def build(self, network: Callable[[], ImageClassifier] | None = None) -> FrozenSchedule:
        return FrozenSchedule(self.schedule)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> PolicyConfig:
        return cls(**{**values, "schedule": tuple(map(tuple, values["schedule"]))})


def frozen_control(
    policy: PolicyConfig, quantiles: Sequence[float], schedule: Sequence[Sequence[float]] = ()
) -> PolicyConfig:
    """Returns the control of a policy that draws λ as learning had it, part by part.

    What is frozen otherwise than by `Frozen`, as the region of AdaMixUp is, and what was stored
    without a schedule, draws from the distribution that learning ended with throughout.

    Args:
        policy: that learned.
        quantiles, schedule: `TrainingResult.lam_quantiles` and `lam_schedule` of its training.

    Raises:
        ValueError: it learns no distribution of λ.

    Examples:
        >>> import core
        >>> learned = core.policies.LearnedConfig()
        >>> core.policies.frozen_control(learned, [0.0, 1.0], [[0.0, 1.0], [0.5, 0.5]]).schedule
        ((0.0, 1.0), (0.5, 0.5))
    """
    frozen = policy.frozen(tuple(quantiles))
    if schedule and isinstance(frozen, Frozen):
        return FrozenScheduleConfig(tuple(map(tuple, schedule)))
    return frozen


def check_schedule(schedule: Sequence[tuple[float, ...]]) -> None:
    """Raises ValueError unless it is one distribution or more, each by its quantiles."""
    if not schedule:
        raise ValueError("schedule must have the quantiles of 1 part or more; got none")
    for part, quantiles in enumerate(schedule):
        try:
            check_quantiles(quantiles)
        except ValueError as error:
            raise ValueError(f"part {part} of the schedule: {error}") from error

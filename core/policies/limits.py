"""What the settings of learned policies may be, for a policy and its configuration alike."""

from __future__ import annotations

from numbers import Integral
from typing import Any, Literal, get_args

from core.meta.objectives import OBJECTIVES
from core.meta.reading import Reading, check_reading
from core.policies.plain_settings import check_choices, check_numbers

Begin = float | Literal["auto"]
"""When `LearnedBeta` begins to learn."""

Path = Literal["ends", "stop"]
"""What `EvolvedBeta` learns: both ends of a schedule, or one end and when to stop."""


def check_learned_beta(settings: Any) -> None:
    """Raises ValueError where a setting of a `LearnedBeta` is out of range."""
    low, high = settings.bounds
    if not 0 < low < high < float("inf"):
        raise ValueError(f"bounds of alpha must be positive and rising, got {settings.bounds}")
    if not low <= settings.alpha <= high:
        raise ValueError(f"alpha must lie within bounds [{low}, {high}], got {settings.alpha}")
    begin = settings.begin
    if begin != "auto" and (isinstance(begin, str) or not 0 <= begin <= 1):
        raise ValueError(f'begin must be "auto" or lie in [0, 1], got {begin!r}')
    check_numbers(settings, "be at least 1", "every", "average_over")
    check_numbers(settings, "be finite and at least 0", "reach")
    check_choices(settings, objective=OBJECTIVES)


def check_carry(carry: float) -> None:
    """Raises ValueError where the horizon of a `CarriedBeta` is out of range."""
    if not 0 < carry <= 1:
        raise ValueError(f"carry must lie in (0, 1], got {carry}")


def check_evolution(sigma: float, path: Path, last_blocks: int | None = None) -> None:
    """Raises ValueError where a setting of an `EvolvedBeta` is out of range, or of no use."""
    if not 0 < sigma < float("inf"):
        raise ValueError(f"sigma must be positive and finite, got {sigma}")
    if path not in get_args(Path):
        raise ValueError(f"path must be {' or '.join(get_args(Path))}, got {path!r}")
    if last_blocks is not None:
        raise ValueError(
            f"last_blocks={last_blocks} shortens a derivative, and evolution takes none; leave it "
            "out"
        )


def check_scores(reading: Reading, every: int) -> None:
    """Raises ValueError where a setting of `PersistentScores` is out of range."""
    check_reading(reading)
    if not isinstance(every, Integral) or every < 1:
        raise ValueError(f"every must be a whole number of at least 1, got {every!r}")
    if reading.projection != "sigmoid_before":
        raise ValueError(
            "persistent scores are added to a logit: their reading needs "
            f'projection="sigmoid_before", got {reading.projection!r}'
        )
    if reading.meta_steps != 1:
        raise ValueError(
            "persistent scores move once in a meta stage: their reading needs meta_steps=1, "
            f"got {reading.meta_steps}"
        )


def check_weights(reading: Reading) -> None:
    """Raises ValueError where `PersistentWeights` has no use for a setting of its reading."""
    check_reading(reading)
    for name in ("projection", "meta_steps", "inner_step"):
        value, one = getattr(reading, name), getattr(Reading(), name)
        if value != one:
            raise ValueError(
                f"weights are σ of a score, moved once by plain gradient descent: their reading "
                f"needs {name}={one!r}, got {value!r}"
            )


def check_net(hidden: int, lr: float, weight_decay: float) -> None:
    """Raises ValueError unless they are a width, a rate and a decay of `MetaWeightNet`."""
    if hidden < 1:
        raise ValueError(f"hidden must be at least 1, got {hidden}")
    if not 0 < lr < float("inf"):
        raise ValueError(f"lr of Meta-Weight-Net must be positive and finite, got {lr}")
    if not 0 <= weight_decay < float("inf"):
        raise ValueError(
            f"weight_decay of Meta-Weight-Net must be finite and at least 0, got {weight_decay}"
        )

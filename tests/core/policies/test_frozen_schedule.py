"""The frozen control over time: which part a step belongs to, and what is drawn there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from core.policies import (
    AdaMixUpConfig,
    Frozen,
    FrozenSchedule,
    FrozenScheduleConfig,
    L2RWConfig,
    LearnedConfig,
    frozen_control,
)

PARTS = ((0.1, 0.1), (0.5, 0.5), (0.9, 0.9))


@pytest.fixture
def ask(toy: SimpleNamespace) -> Any:
    data = toy.make_data(4, 4)

    def asked(policy: Any, **more: Any) -> Any:
        return policy(torch.nn.Linear(4, 3), None, data.batch, **more)

    return asked


def parts(ask: Any, policy: FrozenSchedule, n: int) -> list[float]:
    return [float(ask(policy).lam[0]) for _ in range(n)]


def test_each_part_of_the_training_has_its_distribution(ask: Any) -> None:
    policy = FrozenSchedule(PARTS)
    policy.at(0, 7)  # steps 0 to 6 lie at 0, 3/7, 6/7, 9/7, 12/7, 15/7, 18/7 parts
    assert parts(ask, policy, 8) == pytest.approx([0.1, 0.1, 0.1, 0.5, 0.5, 0.9, 0.9, 0.9])
    for step, lam in ((0, 0.1), (3, 0.5), (6, 0.9)):
        policy.at(step, 7)
        assert parts(ask, policy, 1) == pytest.approx([lam])


def test_where_nobody_says_how_far_it_is_the_last_one_is_drawn(ask: Any) -> None:
    assert parts(ask, FrozenSchedule(PARTS), 3) == pytest.approx([0.9] * 3)


def test_it_draws_as_frozen_does(ask: Any) -> None:
    quantiles = (0.1, 0.4, 0.9)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    one = ask(FrozenSchedule([quantiles]), generator=generators[0])
    two = ask(Frozen(quantiles), generator=generators[1])
    assert torch.equal(one.lam, two.lam)
    assert torch.equal(one.partner, two.partner)
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


def test_it_counts_on_after_a_resume(ask: Any) -> None:
    policy, resumed = FrozenSchedule(PARTS), FrozenSchedule(PARTS)
    policy.at(0, 6)
    parts(ask, policy, 3)
    resumed.load_state_dict(policy.state_dict())
    assert parts(ask, policy, 3) == parts(ask, resumed, 3) == pytest.approx([0.5, 0.9, 0.9])


def test_the_control_follows_the_schedule_where_there_is_one() -> None:
    schedule = [[0.0, 1.0], [0.2, 0.4]]
    expected = FrozenScheduleConfig(((0.0, 1.0), (0.2, 0.4)))
    assert frozen_control(LearnedConfig(), [0.2, 0.4], schedule) == expected
    assert frozen_control(LearnedConfig(), [0.2, 0.4]) == Frozen((0.2, 0.4))
    held = AdaMixUpConfig((0.2, 0.4))
    assert frozen_control(AdaMixUpConfig(), [0.2, 0.4], schedule) == held
    with pytest.raises(ValueError, match="policy l2rw learns no λ"):
        frozen_control(L2RWConfig(), [0.2, 0.4], schedule)

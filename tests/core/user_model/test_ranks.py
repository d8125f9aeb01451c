"""What the ranks exchange, with the messages of the other ranks made up by hand.

Two real processes stand in test_distributed.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from core.user_model.ranks import ALONE, Ranks

GROUP = "the group"


class Others:
    """Two other ranks; their tensors are 1 and 4 times this rank's own."""

    factors = (1, 1, 4)

    def __init__(self) -> None:
        self.messages: list[Tensor] = []

    def size(self, group: Any) -> int:
        assert group is GROUP
        return len(self.factors)

    def reduce(self, tensor: Tensor, op: Any = dist.ReduceOp.SUM, group: Any = None) -> None:
        assert group is GROUP
        self.messages.append(tensor.clone())
        all_of_them = torch.stack([f * tensor for f in self.factors])
        largest = op == dist.ReduceOp.MAX
        tensor.copy_(all_of_them.amax(0) if largest else all_of_them.sum(0))


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> Others:
    made = Others()
    monkeypatch.setattr(dist, "all_reduce", made.reduce)
    monkeypatch.setattr(dist, "get_world_size", made.size)
    return made


def test_alone_there_is_nothing_to_exchange() -> None:
    tensors = [torch.randn(3, requires_grad=True), torch.tensor(2.0)]
    assert ALONE.size == 1
    for a, b in zip(ALONE.mean(tensors), tensors, strict=True):
        assert a is b
    assert ALONE.largest(tensors[0]) is tensors[0]


def test_mean_in_one_message_for_each_dtype(others: Others) -> None:
    ranks = Ranks(GROUP)
    weight = torch.tensor([[1.0, -2.0], [3.0, 0.5]], requires_grad=True)
    scalar = torch.tensor(7.0, dtype=torch.float64)
    empty = torch.zeros(0, 3)
    bias = torch.tensor([1.0, 8.0])
    remaining = [t.detach().clone() for t in (weight, scalar, empty, bias)]
    means = ranks.mean([weight, scalar, empty, bias])
    assert ranks.size == 3
    assert [len(m) for m in others.messages] == [6, 1]
    for mean, ours in zip(means, remaining, strict=True):
        assert mean.dtype == ours.dtype
        assert not mean.requires_grad
        torch.testing.assert_close(mean, ours * 2)
    for given, ours in zip((weight, scalar, empty, bias), remaining, strict=True):
        assert torch.equal(given, ours)


@pytest.mark.parametrize(
    "order",
    [
        (torch.float32, torch.float64, torch.bfloat16),
        (torch.bfloat16, torch.float64, torch.float32),
        (torch.float64, torch.float32, torch.bfloat16),
        (torch.float64, torch.bfloat16, torch.float32),
    ],
)
def test_messages_follow_the_order_of_the_tensors(
    order: tuple[torch.dtype, ...], others: Others
) -> None:
    """Not that of a set, which differs from process to process, so that messages would mix."""
    Ranks(GROUP).mean([torch.ones(2, dtype=dtype) for dtype in (*order, *order)])
    assert tuple(m.dtype for m in others.messages) == order


def test_largest_of_all_ranks(others: Others) -> None:
    values = torch.tensor([2.0, -1.0, 0.0])
    remaining = values.clone()
    assert Ranks(GROUP).largest(values).tolist() == [8.0, -1.0, 0.0]
    assert torch.equal(values, remaining)

"""Parameters that share memory are refused where they share an element, and only there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import core
from core.user_model.memory import refuse_shared_memory

BATCH = torch.randn(8, 4), torch.arange(8) % 4


def two(first: nn.Parameter, second: nn.Parameter) -> dict[str, nn.Parameter]:
    return {"first": first, "second": second}


def test_a_weight_tied_by_its_memory_is_refused_by_a_step() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model[2].weight.data = model[0].weight.data.t()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"'0.weight' and '2.weight' share their memory"):
        core.metamixup_step(model, optimizer, BATCH, BATCH)
    assert torch.equal(torch.get_rng_state(), before)
    model[2].weight = model[0].weight  # as the message says
    core.metamixup_step(model, optimizer, BATCH, BATCH)


def test_an_element_in_common_is_found_wherever_it_lies() -> None:
    memory = torch.randn(3, 4)
    columns = [nn.Parameter(memory[:, i]) for i in range(4)]
    refuse_shared_memory(two(columns[0], columns[2]))  # their spans overlap
    refuse_shared_memory(two(nn.Parameter(memory[:1]), nn.Parameter(memory[1:])))
    for other in (memory[1], memory.flatten()[9:], memory.t()):
        with pytest.raises(ValueError, match=r"'(first|second)' and '(first|second)'"):
            refuse_shared_memory(two(columns[1], nn.Parameter(other)))
    # The first, which spans all, and the last; not the one between.
    spread = {"a": columns[1], "b": columns[2], "c": nn.Parameter(memory[2, 1:2])}
    with pytest.raises(ValueError, match="'a' and 'c'"):
        refuse_shared_memory(spread)


def test_weights_that_lie_in_one_memory_side_by_side_are_not() -> None:
    flat = torch.zeros(48)
    lstm = nn.LSTM(2, 2)
    at = 0
    for p in lstm.parameters():
        p.data = flat[at : at + p.numel()].view_as(p)
        at += p.numel()
    refuse_shared_memory(dict(lstm.named_parameters()))
    refuse_shared_memory({"nothing": nn.Parameter(torch.empty(0)), "too": nn.Parameter(flat[:0])})


def test_the_same_memory_in_another_type_is_refused() -> None:
    memory = torch.randn(4)
    bits = nn.Parameter(memory.view(torch.bfloat16)[:2])
    with pytest.raises(ValueError, match="share their memory"):
        refuse_shared_memory(two(nn.Parameter(memory), bits))

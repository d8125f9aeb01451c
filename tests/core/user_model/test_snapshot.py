"""Everything that can change in a model's neighborhood: noticed by name, put back as it was."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from core.user_model.snapshot import Snapshot


class Settings:
    def __init__(self) -> None:
        self.rate = 0.5
        self.deep = {"list": [1, [2]]}


class Thing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("mean", torch.tensor([1.0, float("nan")]))
        self.calls, self.nan = 0, float("nan")
        self.names, self.last = {"a": 1}, deque([1, 2], maxlen=2)
        self.seen, self.kept = {1}, [torch.zeros(2)]
        self.array = np.array([1.0, np.nan])
        self.settings = Settings()
        self.stream = torch.Generator().manual_seed(0)
        self.python, self.numpy = random.Random(0), np.random.default_rng(0)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "layer.weight": lambda t: t.layer.weight.data.add_(1),
    "layer.bias": lambda t: setattr(t.layer.bias, "data", torch.ones(2)),
    "mean": lambda t: t.mean.zero_(),
    "calls": lambda t: setattr(t, "calls", 1),
    "new": lambda t: setattr(t, "new", 1),
    "nan": lambda t: delattr(t, "nan"),
    "training": lambda t: setattr(t, "training", False),
    "names": lambda t: t.names.update(b=2),
    "last": lambda t: t.last.append(3),
    "seen": lambda t: t.seen.add(2),
    "kept": lambda t: t.kept.append(1),
    "kept[0]": lambda t: t.kept[0].add_(1),
    "array": lambda t: t.array.fill(0),
    "settings.rate": lambda t: setattr(t.settings, "rate", 1.0),
    "settings.deep['list'][1]": lambda t: t.settings.deep["list"][1].append(3),
    "stream": lambda t: torch.rand(1, generator=t.stream),
    "python": lambda t: t.python.random(),
    "numpy": lambda t: t.numpy.random(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_named_and_put_back(name: str) -> None:
    thing = Thing()
    objects = [thing.names, thing.last, thing.kept, thing.kept[0], thing.array, thing.layer.weight]
    before = Snapshot({"": thing})
    assert before.restore() == set()
    CHANGES[name](thing)
    assert before.restore() == {name}
    assert before.restore() == set()
    after = [thing.names, thing.last, thing.kept, thing.kept[0], thing.array, thing.layer.weight]
    assert all(a is b for a, b in zip(objects, after, strict=True))
    assert thing.calls == 0
    assert thing.names == {"a": 1}
    assert [*thing.last] == [1, 2]
    assert thing.settings.rate == 0.5
    assert thing.settings.deep == {"list": [1, [2]]}
    assert thing.training


def test_gradients_flags_and_an_optimizers_state() -> None:
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    gradient, weight = layer.weight.grad, layer.weight.detach().clone()
    before = Snapshot({"": layer, "optimizer": optimizer})
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.param_groups[0]["lr"] = 1.0
    layer.bias.requires_grad_(False)
    assert {"weight", "bias", "optimizer.param_groups[0]"} <= before.restore()
    assert layer.weight.grad is gradient
    assert torch.equal(layer.weight, weight)
    assert layer.bias.requires_grad
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert all(torch.equal(s["momentum_buffer"], p.grad) for p, s in optimizer.state.items())


def test_a_sparse_buffer_is_noticed_and_put_back() -> None:
    layer = nn.Linear(2, 2)
    layer.register_buffer("graph", torch.eye(2).to_sparse())
    graph, before = layer.graph, Snapshot({"": layer})
    assert before.restore() == set()
    graph.mul_(2)
    assert before.restore() == {"graph"}
    assert before.restore() == set()
    assert torch.equal(layer.graph.to_dense(), torch.eye(2))
    layer.graph = torch.ones(2, 2).to_sparse()
    assert before.restore() == {"graph"}
    assert layer.graph is graph


def test_what_a_hook_has_closed_over_and_what_is_left_out() -> None:
    layer, outputs = nn.Linear(2, 2), [1]
    layer.register_forward_hook(lambda *given: outputs.append(2))
    before = Snapshot({"": layer}, but=[layer.weight])
    layer(torch.ones(1, 2))
    layer.weight.data.zero_()
    (name,) = before.restore()
    assert name.endswith(".outputs")
    assert outputs == [1]
    assert not layer.weight.any()

"""A module that has two names is one module: it is trained, and it stays where it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import core
from core.meta.engines import compiled
from core.meta.sample_losses import logits_now
from core.user_model.other_values import places, with_values
from tests.support.differences import differences


def block() -> nn.Sequential:
    linear, norm = nn.Linear(4, 4, dtype=torch.float64), nn.BatchNorm1d(4, dtype=torch.float64)
    return nn.Sequential(linear, norm, nn.Tanh())


class Net(nn.Module):
    """One hidden block, run twice, under one name or two, or as two blocks of the same weights."""

    def __init__(self, names: str) -> None:
        super().__init__()
        self.first, self.out = block(), nn.Linear(4, 3, dtype=torch.float64)
        if names == "two":
            self.second = self.first
        elif names == "tied":
            self.second = block()
            for one, other in zip(self.first, self.second, strict=True):
                for key in one._parameters:
                    setattr(other, key, getattr(one, key))
                other._buffers.update(one._buffers)
        self.names = names

    def forward(self, x: Tensor) -> Tensor:
        again = self.first if self.names == "one" else self.second
        return self.out(again(self.first(x)))


def net(names: str) -> Net:
    torch.manual_seed(3)
    return Net(names)


def batches(seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    return (x[:5], torch.arange(5) % 3), (x[5:], torch.arange(4) % 3)


@pytest.mark.parametrize(
    ("names", "engine"),
    [
        ("two", "auto"),
        ("two", "unroll"),
        ("two", "forward_reverse"),
        ("two", "finite_difference"),
        pytest.param("two", "compiled", marks=pytest.mark.slow),
        ("tied", "auto"),
    ],
)
def test_a_block_of_two_names_is_trained_as_one_of_one_name(
    names: str, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    runs = {}
    for kind in ("one", names):
        model = net(kind)
        before = dict(model.named_parameters())
        start = {name: p.detach().clone() for name, p in before.items()}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
        generator = torch.Generator().manual_seed(4)
        for step in range(3):
            core.metamixup_step(
                model, optimizer, *batches(step), engine=engine, generator=generator
            )
        after = dict(model.named_parameters())
        assert all(after[name] is p for name, p in before.items())
        assert all(not torch.equal(p, start[name]) for name, p in after.items())
        runs[kind] = {**after, **dict(model.named_buffers())}
    for name, value in runs["one"].items():
        torch.testing.assert_close(runs[names][name], value, msg=name)


def test_hypergradients_of_a_block_of_two_names_are_differences_of_plain_training() -> None:
    batch, val_batch = batches(0)
    lam, partner = torch.linspace(0.2, 0.9, 5, dtype=torch.float64), torch.arange(5).roll(2)

    def meta_loss(lam: Tensor) -> float:
        model = net("two")
        state = {name: b.clone() for name, b in model.named_buffers()}
        weight = lam.unsqueeze(1)
        x, y = batch[0], torch.eye(3, dtype=torch.float64)[batch[1]]
        mixed = [weight * t + (1 - weight) * t[partner] for t in (x, y)]
        (-(mixed[1] * F.log_softmax(model(mixed[0]), 1)).sum(1).mean()).backward()
        torch.optim.SGD(model.parameters(), lr=0.3).step()
        model.load_state_dict(state, strict=False)
        with torch.no_grad():
            return float(F.cross_entropy(model(val_batch[0]), val_batch[1]))

    truth = differences(meta_loss, lam, 1e-5)
    model = net("two")
    for _ in range(2):  # the second meets what the first has left
        got = core.hypergradient(model, batch, val_batch, lam, partner, lr=0.3)
        torch.testing.assert_close(got, truth, rtol=1e-6, atol=1e-10)


def examined(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    core.examine(model, *batches(0), optimizer=optimizer)


@pytest.mark.parametrize(
    "look", [lambda model: logits_now(model, batches(0)[0][0]), examined], ids=["now", "examine"]
)
def test_whoever_looks_at_a_block_of_two_names_leaves_it_there(
    look: Callable[..., Any],
) -> None:
    model = net("two")
    before = [*model.named_parameters(), *model.named_buffers()]
    look(model)
    after = [*model.named_parameters(), *model.named_buffers()]
    assert all(name == key and p is q for (name, p), (key, q) in zip(before, after, strict=True))


def test_each_place_is_named_once() -> None:
    assert places(net("two"))["first.0.weight"] == ["first.0.weight"]
    assert places(net("tied"))["first.0.weight"] == ["first.0.weight", "second.0.weight"]
    assert places(net("tied"))["first.1.running_mean"] == [
        "first.1.running_mean",
        "second.1.running_mean",
    ]


def test_values_of_all_places_are_others_inside() -> None:
    model = net("tied").eval()
    x = batches(0)[0][0]
    values = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    assert torch.count_nonzero(with_values(model, values, x)) == 0
    assert torch.count_nonzero(model(x)) == 15

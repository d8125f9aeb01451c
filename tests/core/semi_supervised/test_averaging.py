from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import core
from core.semi_supervised.averaging import MovingAverage


def move(model: nn.Module, seed: int) -> None:
    """Returns parameters and buffers as a training step would leave them: all of them changed."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=g, dtype=p.dtype))
        for b in model.buffers():
            b.add_(1 if not b.is_floating_point() else torch.rand(b.shape, generator=g))


def test_buffers_are_the_models_own_and_the_model_is_only_read(toy: SimpleNamespace) -> None:
    net = toy.make_net(norm=True)
    net.register_buffer("noise", torch.zeros(2, dtype=torch.float64), persistent=False)
    average = MovingAverage(net, 0.9)
    held = copy.deepcopy(dict(average.model.named_buffers()))
    move(net, 1)
    assert toy.identical(dict(average.model.named_buffers()), held)  # copies, and no aliases
    before = toy.snapshot(net)
    average.update(net)
    assert toy.identical(toy.snapshot(net), before)
    assert set(held) == {
        "noise",
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    }
    for name, buffer in average.model.named_buffers():
        assert torch.equal(buffer, net.get_buffer(name))
        assert buffer.data_ptr() != net.get_buffer(name).data_ptr()


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_of_a_network_whose_weights_are_computed() -> None:
    """torch copies no tensor that has a graph; the older weight_norm keeps one as its weight."""
    model = nn.utils.weight_norm(nn.Linear(2, 3))
    computed, x = model.weight, torch.randn(4, 2)
    average = MovingAverage(model, 0.5)
    assert model.weight is computed
    torch.testing.assert_close(average.model(x), model(x))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    move(model, 1)
    average.update(model)
    mean = {name: (before[name] + p.detach()) / 2 for name, p in model.named_parameters()}
    v, g = mean["weight_v"], mean["weight_g"]
    weight = g * v / v.norm(dim=1, keepdim=True)
    torch.testing.assert_close(average.model(x), x @ weight.T + mean["bias"])


def test_of_a_network_with_parts_it_gives_the_logits() -> None:
    class Parts(nn.Linear):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": super().forward(x)}

    model, x = Parts(2, 3), torch.randn(4, 2)
    average = MovingAverage(core.with_logits(model, "logits"), 0.5)
    before = model.weight.detach().clone()
    move(model, 1)
    average.update(core.with_logits(model, "logits"))
    weight = (before + model.weight.detach()) / 2
    bias = average.state_dict()["bias"]
    torch.testing.assert_close(average.model(x), x @ weight.T + bias)


def test_it_has_no_gradients_and_leaves_those_of_the_model() -> None:
    model = nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    average = MovingAverage(model, 0.5)
    average.update(model)
    assert all(p.grad is None and not p.requires_grad for p in average.model.parameters())
    assert all(p.grad is not None and p.requires_grad for p in model.parameters())


def test_frozen_parameters_stay_and_tied_ones_stay_tied(toy: SimpleNamespace) -> None:
    net = toy.make_net(tied=True)
    net.inp.weight.requires_grad_(False)
    average = MovingAverage(net, 0.9)
    for seed in range(3):
        move(net, seed)
        average.update(net)
    assert torch.equal(average.model.inp.weight, net.inp.weight)
    assert average.model.again.weight is average.model.hidden.weight
    assert not torch.equal(average.model.hidden.weight, net.hidden.weight)


def test_a_wrapped_model_is_averaged_as_the_plain_one() -> None:
    plain = nn.Linear(2, 2)
    wrapped = nn.Sequential(plain)
    wrapped._orig_mod = plain  # the mark of `torch.compile`
    average, expected = MovingAverage(wrapped, 0.5), MovingAverage(plain, 0.5)
    move(plain, 0)
    average.update(wrapped)
    expected.update(plain)
    assert type(average.model) is nn.Linear
    assert torch.equal(average.model.weight, expected.model.weight)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_out_of_range(decay: float) -> None:
    with pytest.raises(ValueError, match=r"decay of a moving average must lie in \[0, 1\)"):
        MovingAverage(nn.Linear(1, 1), decay)

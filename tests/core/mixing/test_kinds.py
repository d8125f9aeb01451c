"""What every kind of mixing owes: one suite for all, and the hypergradient through a small net."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from core.mixing.area import AreaMixing
from core.mixing.batch import Loss, soft_cross_entropy
from core.mixing.hidden import HiddenMixing
from core.mixing.kinds import InputMixing, Mixing
from core.mixing.losses import IndexLoss, mixed_loss

KINDS: dict[str, Mixing] = {
    "input": InputMixing(),
    "area": AreaMixing(),
    "hidden": HiddenMixing("body.conv"),
    "hidden, drawn": HiddenMixing(("input", "body.conv", "head.0")),
}
CLASSES = 3


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.norm(self.conv(x)))


class ConvNet(nn.Module):
    """Convolution, BatchNorm, pooling, linear layers; smooth, so that differences converge."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Body()
        self.head = nn.Sequential(
            nn.Sequential(nn.AvgPool2d(2), nn.Flatten()), nn.Linear(18, 5), nn.Tanh()
        )
        self.out = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.head(self.body(x)))
        return out


def make(dtype: torch.dtype = torch.float64, n: int = 5) -> tuple[ConvNet, Any]:
    net = ConvNet().to(dtype)
    return net, (
        torch.randn(n, 2, 4, 6, dtype=dtype),
        0.1 + 0.8 * torch.rand(n, dtype=dtype),
        torch.arange(n).roll(1),
    )


def drawn(kind: str, x: Tensor, seed: int = 0) -> Mixing:
    return KINDS[kind].draw(x, torch.Generator().manual_seed(seed))


def meta_loss(
    net: ConvNet,
    mixing: Mixing,
    loss: Loss,
    x: Tensor,
    y: Tensor,
    lam: Tensor,
    partner: Tensor,
    val: tuple[Tensor, Tensor],
) -> Tensor:
    """Returns the validation loss after one step of plain descent, unrolled by hand."""

    def run(theta: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
        buffers = {name: b.clone() for name, b in net.named_buffers()}
        return lambda x: functional_call(net, {**theta, **buffers}, (x,))

    theta = {name: p.detach().requires_grad_() for name, p in net.named_parameters()}
    virtual = mixed_loss(loss, mixing.logits(run(theta), net, x, lam, partner), y, lam, partner)
    slopes = torch.autograd.grad(virtual, list(theta.values()), create_graph=True)
    prime = {name: p - 0.5 * g for (name, p), g in zip(theta.items(), slopes, strict=True)}
    return loss(run(prime)(val[0]), val[1])


def focal(logits: Tensor, y: Tensor) -> Tensor:
    p = torch.softmax(logits, 1).gather(1, y.unsqueeze(1)).squeeze(1)
    return -((1 - p) ** 2) * p.log()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", [soft_cross_entropy, IndexLoss(focal)], ids=["soft", "index"])
def test_hypergradient_is_the_central_difference(kind: str, loss: Loss) -> None:
    net, (x, lam, partner) = make()
    y = torch.tensor([0, 2, 1, 1, 2])
    val = torch.randn(4, 2, 4, 6, dtype=x.dtype), torch.tensor([2, 0, 1, 1])
    mixing = drawn(kind, x)

    def f(lam: Tensor) -> Tensor:
        return meta_loss(net, mixing, loss, x, y, lam, partner, val)

    leaf = lam.clone().requires_grad_()
    (exact,) = torch.autograd.grad(f(leaf), leaf)
    h = 1e-5
    steps = h * torch.eye(len(lam), dtype=lam.dtype)
    differences = torch.stack([(f(lam + e) - f(lam - e)).detach() / (2 * h) for e in steps])
    assert float(exact.abs().min()) > 1e-6
    torch.testing.assert_close(exact, differences, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_the_ends_of_lam_are_the_unmixed_samples(kind: str) -> None:
    net, (x, lam, partner) = make()
    net.eval()
    mixing = drawn(kind, x)
    ones = torch.ones_like(lam)
    torch.testing.assert_close(mixing.logits(net, net, x, ones, partner), net(x))
    torch.testing.assert_close(mixing.logits(net, net, x, 0 * ones, partner), net(x[partner]))
    between = mixing.logits(net, net, x, lam, partner)
    assert not torch.allclose(between, net(x), atol=1e-3)
    assert not torch.allclose(between, net(x[partner]), atol=1e-3)
    alone = mixing.logits(net, net, x, lam, torch.arange(len(lam)))
    torch.testing.assert_close(alone, net(x))


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_drawn_stays(kind: str) -> None:
    net, (x, lam, partner) = make()
    mixing = drawn(kind, x)
    assert mixing.draw(x, None) is mixing
    first = mixing.logits(net, net, x, lam, partner)
    before = torch.get_rng_state()
    assert torch.equal(mixing.logits(net, net, x, lam, partner), first)
    assert torch.equal(torch.get_rng_state(), before)
    again = drawn(kind, x)
    assert again == mixing
    assert torch.equal(again.logits(net, net, x, lam, partner), first)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_any_batch_size_and_any_floating_lam(kind: str, n: int) -> None:
    net, (x, lam, partner) = make(torch.float32, n)
    net.eval()
    mixing = drawn(kind, x)
    exact = mixing.logits(net, net, x, lam, partner)
    assert exact.shape == (n, CLASSES)
    for dtype, close in [(torch.float64, 1e-6), (torch.bfloat16, 0.05), (torch.float16, 0.01)]:
        other = mixing.logits(net, net, x, lam.to(dtype), partner)
        assert other.dtype == torch.float32
        torch.testing.assert_close(other, exact, rtol=close, atol=close)

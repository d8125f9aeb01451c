"""What every kind of mixing owes: one suite for all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.mixing.area import AreaMixing
from core.mixing.hidden import HiddenMixing
from core.mixing.kinds import InputMixing, Mixing

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
    """Convolution, BatchNorm, pooling, linear layers."""

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

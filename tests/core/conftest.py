"""A small network written twice, and ways to see whether anything was touched.

`Net` is an ordinary module. `explicit_logits` is the same network as formulas over a dictionary of
tensors; truths are derived from it with nothing but tensor algebra and `torch.autograd.grad`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEATURES, WIDTH, CLASSES = 4, 5, 3
DROP = 0.4


class Net(nn.Module):
    """4 → 5 → 5 → 3 with tanh; optionally BatchNorm, dropout, a tied layer, an unused parameter."""

    def __init__(
        self, *, norm: bool = False, drop: bool = False, tied: bool = False, unused: bool = False
    ):
        super().__init__()
        self.inp = nn.Linear(FEATURES, WIDTH)
        self.norm = nn.BatchNorm1d(WIDTH) if norm else None
        self.drop = nn.Dropout(DROP) if drop else None
        self.hidden = nn.Linear(WIDTH, WIDTH)
        self.again = nn.Linear(WIDTH, WIDTH) if tied else None
        if self.again is not None:
            self.again.weight = self.hidden.weight
        self.out = nn.Linear(WIDTH, CLASSES)
        self.unused = nn.Parameter(torch.ones(2)) if unused else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x)
        if self.norm is not None:
            h = self.norm(h)
        h = torch.tanh(h)
        if self.drop is not None:
            h = self.drop(h)
        h = torch.tanh(self.hidden(h))
        if self.again is not None:
            h = torch.tanh(self.again(h))
        out: Tensor = self.out(h)
        return out


def explicit_logits(net: Net, p: Mapping[str, Tensor], x: Tensor, mask: Tensor | None) -> Tensor:
    """`Net` as formulas. `p` by the names of `named_parameters`; `mask` already over 1 − DROP."""
    h = x @ p["inp.weight"].T + p["inp.bias"]
    if net.norm is not None:
        if net.training:
            mean = h.sum(0) / len(h)
            variance = ((h - mean) ** 2).sum(0) / len(h)
        else:
            mean, variance = net.norm.running_mean, net.norm.running_var
        h = (h - mean) / (variance + 1e-5) ** 0.5 * p["norm.weight"] + p["norm.bias"]
    h = torch.tanh(h)
    if mask is not None:
        h = h * mask
    h = torch.tanh(h @ p["hidden.weight"].T + p["hidden.bias"])
    if net.again is not None:
        h = torch.tanh(h @ p["hidden.weight"].T + p["again.bias"])
    return h @ p["out.weight"].T + p["out.bias"]


def explicit_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy against rows of probabilities, from the definition."""
    return (torch.logsumexp(logits, 1) - (target * logits).sum(1)).sum() / len(logits)


def one_hot(y: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    return y if y.is_floating_point() else torch.eye(CLASSES, dtype=dtype)[y]


def masks(net: Net, sizes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Any]:
    """The dropout masks that passes of these sizes will draw; the stream stands where it stood."""
    if net.drop is None or not net.training:
        return [None] * len(sizes)
    with torch.random.fork_rng(devices=[]):
        return [F.dropout(torch.ones(n, WIDTH, dtype=dtype), DROP) for n in sizes]


def make_net(seed: int = 0, dtype: torch.dtype = torch.float64, **options: bool) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Net(**options).to(dtype)
        if net.norm is not None:
            net.norm.running_mean.normal_()
            net.norm.running_var.uniform_(0.5, 2.0)
    return net


def make_data(
    n: int = 6, m: int = 5, *, soft: bool = False, seed: int = 1, dtype: torch.dtype = torch.float64
) -> SimpleNamespace:
    """batch, val_batch, lam and partner of n and m samples."""
    g = torch.Generator().manual_seed(seed)

    def part(size: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(size, FEATURES, generator=g, dtype=dtype)
        if soft:
            return x, torch.softmax(2 * torch.randn(size, CLASSES, generator=g, dtype=dtype), 1)
        return x, torch.randint(CLASSES, (size,), generator=g)

    batch, val_batch = part(n), part(m)
    lam = 0.05 + 0.9 * torch.rand(n, generator=g, dtype=dtype)
    return SimpleNamespace(
        batch=batch, val_batch=val_batch, lam=lam, partner=torch.arange(n).roll(1)
    )


def warm_up(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    """Fill the optimizer's state with steps on random gradients."""
    g = torch.Generator().manual_seed(7)
    for _ in range(steps):
        for p in net.parameters():
            if p.requires_grad:
                p.grad = torch.randn(p.shape, generator=g, dtype=p.dtype) * 0.1
        optimizer.step()
    optimizer.zero_grad()


def snapshot(net: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
    """Everything that must not change, copied."""
    return copy.deepcopy(
        {
            "parameters": {n: p.detach() for n, p in net.named_parameters()},
            "grads": {n: p.grad for n, p in net.named_parameters()},
            "requires_grad": {n: p.requires_grad for n, p in net.named_parameters()},
            "buffers": dict(net.named_buffers()),
            "modes": {n: module.training for n, module in net.named_modules()},
            "optimizer": None if optimizer is None else optimizer.state_dict(),
        }
    )


def identical(a: Any, b: Any) -> bool:
    """Equal to the last bit, through dictionaries and sequences."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(identical(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(identical, a, b))
    return bool(a == b)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Problems this small only lose by more threads, the more so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _own_random_stream() -> None:
    torch.manual_seed(20)


@pytest.fixture(scope="session")
def toy() -> SimpleNamespace:
    """The helpers of this file, for tests that cannot import it."""
    return SimpleNamespace(
        CLASSES=CLASSES,
        Net=Net,
        make_net=make_net,
        make_data=make_data,
        explicit_logits=explicit_logits,
        explicit_loss=explicit_loss,
        one_hot=one_hot,
        masks=masks,
        warm_up=warm_up,
        snapshot=snapshot,
        identical=identical,
    )

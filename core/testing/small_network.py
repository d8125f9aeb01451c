"""A small network and its data, and ways to see whether anything was touched."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from core.mixing.batch import Batch

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

    def features(self, x: Tensor) -> Tensor:
        """Returns what the last layer sees, [n, 5], of x [n, 4]."""
        h: Tensor = self.inp(x)
        if self.norm is not None:
            h = self.norm(h)
        h = torch.tanh(h)
        if self.drop is not None:
            h = self.drop(h)
        h = torch.tanh(self.hidden(h))
        return h if self.again is None else torch.tanh(self.again(h))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, 3]."""
        logits: Tensor = self.out(self.features(x))
        return logits


def make_net(seed: int = 0, dtype: torch.dtype = torch.float64, **options: bool) -> Net:
    """Returns a network whose weights depend on the seed alone; torch's stream stands where it
    stood."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Net(**options).to(dtype)
        if net.norm is not None and net.norm.running_mean is not None:
            net.norm.running_mean.normal_()
            net.norm.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    return net


def make_data(
    n: int = 6, m: int = 5, *, soft: bool = False, seed: int = 1, dtype: torch.dtype = torch.float64
) -> SimpleNamespace:
    """Returns batch, val_batch, lam and partner of n and m samples."""
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


def toy_problem() -> tuple[nn.Module, torch.optim.Optimizer, Batch, Batch]:
    """Returns a linear model of 4 features and 3 classes, its SGD, a batch of 8 and one of 6.

    All that a policy is called with: x [n, 4] floating, y [n] int64. The examples take them.

    Examples:
        >>> import core
        >>> model, optimizer, batch, val_batch = core.testing.toy_problem()
        >>> core.metamixup_step(model, optimizer, batch, val_batch).lam.shape
        torch.Size([8])
    """
    model = nn.Linear(FEATURES, CLASSES)
    batch, val_batch = ((torch.randn(n, FEATURES), torch.arange(n) % CLASSES) for n in (8, 6))
    return model, torch.optim.SGD(model.parameters(), lr=0.1), batch, val_batch


def warm_up(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    """Fills the optimizer's state with steps on random gradients."""
    g = torch.Generator().manual_seed(7)
    for _ in range(steps):
        for p in net.parameters():
            if p.requires_grad:
                p.grad = torch.randn(p.shape, generator=g, dtype=p.dtype) * 0.1
        optimizer.step()
    optimizer.zero_grad()


def snapshot(net: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
    """Returns copies of everything that must not change."""
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
    """Returns whether both are equal to the last bit, through dictionaries and sequences."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(identical(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(identical, a, b))
    return bool(a == b)


def saved_and_loaded(state: Mapping[str, Any]) -> Any:
    """Returns what a checkpoint gives back: plain types and tensors, and nothing of what stands
    now."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)

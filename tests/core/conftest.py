"""The small network of `core.testing` written once more, as formulas.

`explicit_logits` takes a dictionary of tensors; truths are derived from it with nothing but tensor
algebra and `torch.autograd.grad`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.testing.small_network import (
    CLASSES,
    DROP,
    WIDTH,
    Net,
    identical,
    make_data,
    make_net,
    snapshot,
    warm_up,
)


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
    """Returns the dropout masks that passes of these sizes will draw; the stream stands where it
    stood."""
    if net.drop is None or not net.training:
        return [None] * len(sizes)
    with torch.random.fork_rng(devices=[]):
        return [F.dropout(torch.ones(n, WIDTH, dtype=dtype), DROP) for n in sizes]


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
    """Returns the helpers of this file, for tests that cannot import it."""
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

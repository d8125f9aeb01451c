"""Values, first and second derivatives against PyTorch's own operations, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.meta.engines.hand_derived.piecewise_linear import MaxPool2d, Relu
from core.meta.engines.hand_derived.substitution import HandDerived

POOLS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 2},
    "overlapping": {"kernel_size": 3, "stride": 1},
    "strided": {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)},
    "dilated": {"kernel_size": 2, "stride": 1, "dilation": 2},
    "ceiling": {"kernel_size": 2, "ceil_mode": True},
}
OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "torch_relu": torch.relu,
    "method_relu": Tensor.relu,
    "module_relu": nn.ReLU(),
    "leaky_relu": F.leaky_relu,
    "leaky_module": nn.LeakyReLU(0.3),
    **{
        f"max_pool_{name}": lambda x, window=window: F.max_pool2d(x, **window)
        for name, window in POOLS.items()
    },
    "max_pool_module": nn.MaxPool2d(2),
    "torch_max_pool": lambda x: torch.max_pool2d(x, 2),
}


def derivatives(operation: Callable[[Tensor], Tensor], x: Tensor, mode: bool) -> list[Tensor]:
    """y, dx for a cotangent, and the second derivatives of a function that is curved in both."""
    x = x.clone().requires_grad_()
    r = torch.Generator().manual_seed(2)
    if mode:
        with HandDerived():
            y = operation(x)
        assert type(y.grad_fn).__name__ in ("ReluBackward", "MaxPool2dBackward")
    else:
        y = operation(x)
    g = torch.randn(y.shape, generator=r, dtype=x.dtype).requires_grad_()
    (dx,) = torch.autograd.grad((y.tanh() * g).sum(), x, create_graph=True)
    u = torch.randn(x.shape, generator=r, dtype=x.dtype)
    return [y.detach(), dx.detach(), *torch.autograd.grad((dx.sin() * u).sum(), [x, g])]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", OPERATIONS)
def test_equals_torchs_own(name: str, layout: Any) -> None:
    x = torch.randn(2, 3, 7, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = x.to(memory_format=layout)
    ours, theirs = (derivatives(OPERATIONS[name], x, mode) for mode in (True, False))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    assert ours[0].stride() == theirs[0].stride()


def test_by_hand() -> None:
    x = torch.tensor([-2.0, 3.0], dtype=torch.float64, requires_grad=True)
    g = torch.tensor([5.0, 7.0], dtype=torch.float64, requires_grad=True)
    (dx,) = torch.autograd.grad(Relu.apply(x, 0.5), x, g, create_graph=True)
    assert dx.tolist() == [2.5, 7.0]
    (dg,) = torch.autograd.grad(dx, g, torch.tensor([4.0, 10.0], dtype=torch.float64))
    assert dg.tolist() == [2.0, 10.0]
    image = torch.arange(4.0).view(1, 1, 2, 2).requires_grad_()
    top = MaxPool2d.apply(image, ([2, 2], [2, 2], [0, 0], [1, 1], False))
    assert top.item() == 3
    one = torch.ones_like(top).requires_grad_()
    (dx,) = torch.autograd.grad(top, image, one, create_graph=True)
    assert dx.flatten().tolist() == [0, 0, 0, 1]
    (dg,) = torch.autograd.grad(dx, one, torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
    assert dg.item() == 4


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: F.relu(x.clone(), inplace=True),
        lambda x: F.leaky_relu(x, -0.5),
        lambda x: F.leaky_relu(x, 0.0),
        lambda x: F.max_pool2d(x[0], 2),
        lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
        lambda x: F.max_pool1d(x[0], 2),
    ],
)
def test_what_is_not_covered_stays_torchs_own(operation: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    with HandDerived():
        actual = operation(x)
    torch.testing.assert_close(actual, operation(x))
    assert type(actual.grad_fn).__name__ not in ("ReluBackward", "MaxPool2dBackward")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_keeps_its_dtype(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 4, 4).to(dtype).requires_grad_()
    with HandDerived():
        y = F.max_pool2d(F.relu(x), 2)
    (dx,) = torch.autograd.grad(y.float().square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(dx.float().square().sum(), x)
    assert y.dtype == dx.dtype == second.dtype == dtype

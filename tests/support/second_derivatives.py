"""Value, first and second derivatives of a layer, how two are compared, layers that lack one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


def derivatives(
    y: Tensor, inputs: Mapping[str, Tensor], g: Tensor, cotangents: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Returns y, its first derivatives, and the second ones: those with respect to g and to x.

    Args:
        y: of the layer.
        inputs: what it is derived by, x as "dx".
        g: the cotangent of y.
        cotangents: of the first derivatives, by the names of inputs.
    """
    grads = torch.autograd.grad(y, list(inputs.values()), g, create_graph=True)
    first = dict(zip(inputs, grads, strict=True))
    second = torch.autograd.grad(
        [first[name] for name in cotangents],
        [g, inputs["dx"]],
        list(cotangents.values()),
        allow_unused=True,
        materialize_grads=True,
    )
    return {"y": y, **first, "of g": second[0], "of x": second[1]}


def error(a: Tensor, b: Tensor) -> float:
    """Returns the distance of a from b over the norm of b, in float64."""
    return float((a.detach().double() - b.detach().double()).norm() / b.detach().double().norm())


def assert_same(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], share: float) -> None:
    """Fails where a value differs by more than this share of the largest of its tensor."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype, name
        assert actual[name].shape == value.shape, name
        scale = float(value.detach().abs().max()) or 1.0
        torch.testing.assert_close(actual[name], value, rtol=0, atol=share * scale, msg=name)


class Flash(nn.Module):
    """Attention by a kernel that has no second derivative; [n, 8] to [n, 8]."""

    def forward(self, x: Tensor) -> Tensor:
        q = x.view(len(x), 1, 2, 4)
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(q, q, q).flatten(1)


class Doubled(torch.autograd.Function):
    """It has derivatives of any order in reverse, and none in forward mode."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return 2 * slope

"""This convolution's double backward computes what the meta stage asks for, and no more.

The backward of y = conv(x, w) is dx = convᵀ(g, w), dw = corr(x, g). PyTorch's own derivative of it
computes the cotangents of g, x and w whichever are asked for, some of them by a convolution with
batch and channels exchanged. Of a cotangent u of dx and a of dw the meta stage needs only

    cotangent of g:   conv(u, w) + conv(x, a)
    cotangent of x:   convᵀ(g, a)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_aten = torch.ops.aten


@dataclass
class Wanted:
    """This says what the backward passes to come are asked for.

    A Python function is not told which of its inputs' gradients are wanted. The last pass of the
    meta stage goes to λ alone, and the gradients of the weights in it would be thrown away.
    """

    weights: bool = True


class Convolution(torch.autograd.Function):
    """A convolution maps x [B, C, ...] to y, in any number of dimensions, any stride and groups.

    Differentiable twice in x; weight and bias must be leaves (the second derivative with respect
    to them is left out).

    `geometry` is (stride, padding, dilation, transposed, output_padding, groups). Where `wanted`
    says so when a backward pass comes, weight and bias get no gradient in it.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Any, wanted: Wanted
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.wanted = wanted
        ctx.geometry = geometry
        ctx.bias_sizes = None if bias is None else list(bias.shape)
        y: Tensor = _aten.convolution(x, weight, bias, *geometry)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        x_needs, *weights_need = ctx.needs_input_grad[:3]
        mask = (
            x_needs and _will_run(ctx.next_functions[0][0]),
            *(need and ctx.wanted.weights for need in weights_need),
        )
        grads = _ConvolutionBackward.apply(g, x, weight, ctx.bias_sizes, ctx.geometry, mask)
        return (*grads, None, None)


def _will_run(node: Any) -> bool:
    """Says whether the backward pass under way goes on to `node`: not from the first layer to λ.

    By a function of the engine's that PyTorch does not document; without it, always.
    """
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except (AttributeError, RuntimeError):  # another version; a leaf
        return True


class _ConvolutionBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        weight: Tensor,
        bias_sizes: list[int] | None,
        geometry: Any,
        mask: tuple[bool, bool, bool],
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(g, x, weight)
        ctx.geometry = geometry
        ctx.set_materialize_grads(False)
        dx, dw, db = _aten.convolution_backward(g, x, weight, bias_sizes, *geometry, list(mask))
        return dx if mask[0] else None, dw if mask[1] else None, db if mask[2] else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor | None, a: Tensor | None, c: Tensor | None) -> Any:
        g, x, weight = ctx.saved_tensors
        dg: Tensor | None = None
        if a is not None:
            a = a.to(weight.dtype)
            dg = _aten.convolution(x, a, c, *ctx.geometry)
        if u is not None:
            other = _aten.convolution(u, weight, c if dg is None else None, *ctx.geometry)
            dg = other if dg is None else dg.add_(other)
        if dg is None and c is not None:
            dg = c.view(1, -1, *[1] * (g.dim() - 2)).expand_as(g)
        dx = None
        if a is not None and ctx.needs_input_grad[1]:
            dx = _aten.convolution_backward(g, x, a, None, *ctx.geometry, [True, False, False])[0]
        return dg, dx, None, None, None, None

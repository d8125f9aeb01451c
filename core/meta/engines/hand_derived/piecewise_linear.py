"""This module holds ReLU, leaky ReLU and max-pooling, whose second derivative is 0.

PyTorch differentiates their backward passes twice by filling a tensor of zeros as large as the
input and adding it to the gradient. Here it is left out: of a cotangent u of dx only the cotangent
of g is computed, which is the backward pass, or its transpose, at the same places.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_aten = torch.ops.aten


class Relu(torch.autograd.Function):
    """ReLU is max(x, 0), or `slope`·x below 0, of any shape. It is differentiable twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        y: Tensor = torch.relu(x) if slope == 0 else _aten.leaky_relu(x, slope)
        # x and y have one sign. As torch does, ReLU saves y (where x is needed no more, its memory
        # is free) and leaky ReLU x, so that y may be written to in place.
        ctx.save_for_backward(y if slope == 0 else x)
        ctx.slope = slope
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (x_or_y,) = ctx.saved_tensors
        return _ReluBackward.apply(g, x_or_y, ctx.slope), None


class _ReluBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, y: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(y)
        ctx.slope = slope
        return _relu_backward(g, y, slope)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        return _relu_backward(u, y, ctx.slope), None, None


def _relu_backward(g: Tensor, y: Tensor, slope: float) -> Tensor:
    if slope == 0:
        return torch.ops.aten.threshold_backward(g, y, 0)
    return torch.ops.aten.leaky_relu_backward(g, y, slope, False)


class MaxPool2d(torch.autograd.Function):
    """Max-pooling takes the largest of each window of x [B, C, H, W], differentiable twice.

    `window` is (kernel size, stride, padding, dilation, ceil mode).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: Any) -> Tensor:
        y, places = _aten.max_pool2d_with_indices(x, *window)
        ctx.save_for_backward(x, places)
        ctx.window = window
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, places = ctx.saved_tensors
        return _MaxPool2dBackward.apply(g, x, places, ctx.window), None


class _MaxPool2dBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, places: Tensor, window: Any) -> Tensor:
        ctx.save_for_backward(places)
        dx: Tensor = _aten.max_pool2d_with_indices_backward(g, x, *window, places)
        return dx

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        (places,) = ctx.saved_tensors
        taken = u.flatten(-2).gather(-1, places.flatten(-2)).view_as(places)
        return taken, None, None, None

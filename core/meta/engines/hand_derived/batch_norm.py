"""This module is BatchNorm by batch statistics with a hand-derived double backward.

PyTorch differentiates the backward of BatchNorm by a chain of some twenty passes over the
activations. Per channel all of it is a linear combination of three tensors. With x̂ = (x − μ)·s,
s = (σ² + ε)^(−1/2), γ the weight and m elements in a channel, the backward of g is

    dx = sγ (g − Σg/m − x̂·Σ(g x̂)/m),   dγ = Σ g x̂,   dβ = Σ g.

For cotangents u of dx, a of dγ, c of dβ, and the channel sums A = Σ g x̂, B = Σ u x̂, D = Σ u g,
S_g = Σ g, S_u = Σ u:

    cotangent of g:   sγ (u − S_u/m − x̂ B/m) + a x̂ + c
    cotangent of x̂:   p g + q u,   p = a − sγ B/m,  q = −sγ A/m
    cotangent of s:   t = γ (D − S_u S_g/m − A B/m)
    cotangent of x:   s (p g + q u − mean(p g + q u) − x̂·mean((p g + q u)·x̂)) − t s² x̂/m

The first line is the ordinary backward applied to u, which PyTorch has as one kernel; A and S_g are
the gradients of γ and β, already there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_aten = torch.ops.aten


class BatchNorm(torch.autograd.Function):
    """BatchNorm maps x [B, C, ...] to y by the batch's statistics; weight, bias: [C] or None.

    Differentiable twice in x; weight and bias must be leaves (the second derivative with respect
    to them is left out). `running` is (mean, variance) of [C], moved in place by `momentum`, or
    (None, None).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running: tuple[Tensor | None, Tensor | None],
        momentum: float,
        eps: float,
    ) -> Tensor:
        y, mean, invstd = _aten.native_batch_norm(x, weight, bias, *running, True, momentum, eps)
        ctx.save_for_backward(x, weight, mean, invstd)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, invstd = ctx.saved_tensors
        dx, dw, db = _BatchNormBackward.apply(g, x, weight, mean, invstd, ctx.eps)
        needs = ctx.needs_input_grad
        grads = dx if needs[0] else None, dw if needs[1] else None, db if needs[2] else None
        return (*grads, None, None, None)


class _BatchNormBackward(torch.autograd.Function):
    """This is the first line of the module's docstring; its backward is the rest."""

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        weight: Tensor | None,
        mean: Tensor,
        invstd: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dx, dw, db = _aten.native_batch_norm_backward(
            g, x, weight, None, None, mean, invstd, True, eps, [True, True, True]
        )
        ctx.save_for_backward(g, x, weight, mean, invstd, dw, db)
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        return dx, dw, db

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor | None, a: Tensor | None, c: Tensor | None) -> Any:
        g, x, weight, mean, s, sum_gx, sum_g = ctx.saved_tensors
        if u is None:
            u = torch.zeros_like(x)
        m = x.numel() // x.shape[1]
        zeros, ones = torch.zeros_like(mean), torch.ones_like(mean)
        gamma = ones if weight is None else weight.to(s.dtype)
        a = zeros if a is None else a.to(s.dtype)
        c = zeros if c is None else c.to(s.dtype)
        sum_ux, sum_u = _sums(u, x, mean, s)
        sum_ug, _ = _sums(u, g, zeros, ones)  # with mean 0 and deviation 1, "x̂" is g itself

        # x̂ is taken from x − μ: x̂ = s·x − s·μ would cancel where the mean is large.
        shape = [1, -1] + [1] * (x.dim() - 2)
        centered = (x - mean.view(shape)).to(s.dtype)
        # cotangent of g, as a combination of u, x − μ and 1
        on_x = s * (a - s * gamma * sum_ux / m)
        dg = torch.addcmul(
            (c - s * gamma * sum_u / m).view(shape), u, (s * gamma).view(shape)
        ).addcmul_(centered, on_x.view(shape))
        # cotangent of x, as a combination of g, u, x − μ and 1, in the memory of x − μ: fresh
        # memory costs more than a pass over it
        p = a - s * gamma * sum_ux / m
        q = -s * gamma * sum_gx / m
        t = gamma * (sum_ug - sum_u * sum_g / m - sum_gx * sum_ux / m)
        mean_v = (p * sum_g + q * sum_u) / m
        mean_vx = (p * sum_gx + q * sum_ux) / m
        dx = centered.mul_((-s * s * (mean_vx + t * s / m)).view(shape))
        dx.addcmul_(g, (s * p).view(shape)).addcmul_(u, (s * q).view(shape))
        dx.sub_((s * mean_v).view(shape))
        return dg.to(x.dtype), dx.to(x.dtype), None, None, None, None


def _sums(u: Tensor, x: Tensor, mean: Tensor, invstd: Tensor) -> tuple[Tensor, Tensor]:
    """Returns Σ u x̂ and Σ u of each channel, [C]: the backward kernel's weight and bias."""
    _, over_x, over_1 = _aten.native_batch_norm_backward(
        u, x, None, None, None, mean, invstd, True, 0.0, [False, True, True]
    )
    return over_x, over_1

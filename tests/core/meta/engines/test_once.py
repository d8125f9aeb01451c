"""A function that is differentiable once is found wherever it stands."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from core.meta.engines.once import refuse_once_differentiable


class OnceTanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = torch.tanh(x)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors
        return g * (1 - out**2)


def gradients(tanh: Any) -> tuple[tuple[Tensor, ...], Tensor]:
    x, w, v = (torch.tensor([0.5, -0.3], requires_grad=True) for _ in range(3))
    out = (v * tanh(w * x)).square().sum()
    return torch.autograd.grad(out, (v, w), create_graph=True), x


def test_autograd_is_silent_and_we_are_not() -> None:
    once, x = gradients(OnceTanh.apply)
    twice, y = gradients(torch.tanh)
    missing = torch.autograd.grad(once, x, [torch.ones(2)] * 2, retain_graph=True)[0]
    whole = torch.autograd.grad(twice, y, [torch.ones(2)] * 2, retain_graph=True)[0]
    assert not torch.allclose(missing, whole)
    with pytest.raises(ValueError, match=r"once_differentiable.*finite_difference"):
        refuse_once_differentiable([None, *once])
    refuse_once_differentiable([None, *twice, torch.ones(2)])

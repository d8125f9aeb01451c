"""This module serves passes that take a derivative themselves, and so are differentiated thrice.

A model whose features are a derivative, such as an energy model, or a loss with a gradient penalty
needs one order more than the others. torch's own batch, instance and layer norm do not have it:
the third derivative of each is wrong without a word in torch 2.6 to 2.13, and that of layer norm
still in 2.15, where the other two raise (`batch_norm does not support 3rd+ order derivatives`).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.overrides import TorchFunctionMode

from core.meta.engines.replay import Replay
from core.meta.problem import MetaProblem

T = TypeVar("T")

_DIFFERENTIATIONS = {torch.autograd.grad, torch.autograd.backward, Tensor.backward}


class DifferentiatesInside(BaseException):
    """What runs takes a derivative itself.

    No `Exception`, lest the model catch it.
    """


class Watch(TorchFunctionMode):
    """Inside, norms within a derivative of `torch.func` have derivatives of any order.

    Raises:
        DifferentiatesInside: autograd is called inside.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in _DIFFERENTIATIONS:
            raise DifferentiatesInside
        if func in _PLAIN and _in_a_derivative():
            func = _PLAIN[func]
        return func(*args, **(kwargs or {}))


def _in_a_derivative() -> bool:
    levels = get_interpreter_stack() or []
    return any(level.key() != TransformType.Vmap for level in levels)


class _PlainNorms(TorchFunctionMode):
    """Inside, all norms have derivatives of any order."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _PLAIN.get(func, func)(*args, **(kwargs or {}))


def in_any_order(
    problem: MetaProblem,
    watch: Watch,
    stage: Callable[[contextlib.AbstractContextManager[Any]], T],
) -> T:
    """Runs a meta stage, and once more with plain norms if its virtual pass differentiates inside.

    Args:
        problem: what the stage is about.
        watch: the context of the virtual pass.
        stage: it enters the context that it is given around the virtual pass.

    Returns:
        What the stage returns.
    """
    replay = Replay(problem.tensors, problem.model)
    try:
        return stage(watch)
    except DifferentiatesInside:
        replay.rewind()
        # To the end: activation checkpoints run their parts again in the backward passes.
        with _PlainNorms():
            return stage(contextlib.nullcontext())


def _of_channels(norm: Callable[..., Tensor], *batch: int) -> Callable[..., Tensor]:
    """Returns the norm of channels with derivatives of any order, and its own arguments.

    Args:
        norm: `F.batch_norm` or `F.instance_norm`.
        batch: axes that its statistics are over, beside the positions.
    """
    signature = inspect.signature(norm)

    def plain(*args: Any, **kwargs: Any) -> Tensor:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        input, _, _, weight, bias, by_input, _, eps = bound.args

        def native(x: Tensor) -> Tensor:
            return norm(x, *bound.args[1:])

        dims = [*batch, *range(2, input.dim())]
        return _normalized(native, input, dims, weight, bias, eps) if by_input else native(input)

    return plain


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,  # of `torch.layer_norm`
) -> Tensor:
    def native(x: Tensor) -> Tensor:
        return F.layer_norm(x, list(normalized_shape), weight, bias, eps)

    return _normalized(native, input, range(-len(normalized_shape), 0), weight, bias, eps)


def _normalized(
    native: Callable[[Tensor], Tensor],
    x: Tensor,
    dims: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """Returns (x − mean)/√(variance + ε) · weight + bias, both statistics over `dims`.

    `native` is torch's own: it moves running statistics, refuses what torch refuses, and says the
    dtype.
    """
    with torch.no_grad():
        dtype = native(x.detach()).dtype
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    centered = wide - wide.mean(list(dims), keepdim=True)
    y = centered * (centered.square().mean(list(dims), keepdim=True) + eps).rsqrt()
    # Those of channels, [C], stand at axis 1; those of layer norm at the normalized axes, the last.
    shape = [1, -1] + [1] * (x.dim() - 2) if dims[-1] >= 0 or not dims else None
    for parameter, combine in ((weight, torch.mul), (bias, torch.add)):
        if parameter is not None:
            y = combine(y, parameter if shape is None else parameter.view(shape))
    return y.to(dtype)


def _weights_first(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Returns the norm of running statistics as `torch` has it, its arguments in another order."""

    def reordered(
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        by_input: bool,
        momentum: float,
        eps: float,
        cudnn_enabled: bool,
    ) -> Tensor:
        return norm(input, running_mean, running_var, weight, bias, by_input, momentum, eps)

    return reordered


_BATCH_NORM, _INSTANCE_NORM = _of_channels(F.batch_norm, 0), _of_channels(F.instance_norm)

_PLAIN: dict[Any, Callable[..., Tensor]] = {
    F.batch_norm: _BATCH_NORM,
    F.instance_norm: _INSTANCE_NORM,
    F.layer_norm: _layer_norm,
    torch.batch_norm: _weights_first(_BATCH_NORM),
    torch.instance_norm: _weights_first(_INSTANCE_NORM),
    torch.layer_norm: _layer_norm,
}

"""This module runs operations of any model by our own functions while a context is open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import disable_saved_tensors_hooks

from core.meta.engines.any_order import Watch
from core.meta.engines.hand_derived.batch_norm import BatchNorm
from core.meta.engines.hand_derived.convolution import Convolution, Wanted
from core.meta.engines.hand_derived.piecewise_linear import MaxPool2d, Relu
from core.user_model.precision import autocast_dtype

_CONVOLUTIONS: dict[Any, int] = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}


class HandDerived(Watch):
    """Inside, convolutions, BatchNorm, ReLU, leaky ReLU and max-pooling are our own functions.

    Same values, cheaper second derivatives; no model changes. What our functions do not cover
    (evaluation mode, in-place ReLU, weights that are computed from others, string padding,
    unbatched or complex inputs, transforms of `torch.func`) takes PyTorch's own. So does what runs
    under saved-tensor hooks, as inside an activation checkpoint: its second run comes with the
    backward pass, outside of this context, and must save the same tensors.

    Attributes:
        wanted: set `wanted.weights` to False before a backward pass that goes to inputs alone.

    Raises:
        DifferentiatesInside: autograd is called inside, and our functions do not carry a derivative
            of theirs on to the weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.wanted = Wanted()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        ours = func in _CONVOLUTIONS or func in _OURS
        # `torch.func` takes no autograd function of the older form, which is the faster one.
        if not ours or torch._C._are_functorch_transforms_active() or _saved_tensor_hooks():
            return super().__torch_function__(func, types, args, kwargs)
        if func in _CONVOLUTIONS:
            return _convolution(self.wanted, func, *args, **kwargs)
        return _OURS[func](*args, **kwargs)


def _saved_tensor_hooks() -> bool:
    """Says whether any are active, by the one public function that tells: it refuses to start."""
    try:
        with disable_saved_tensors_hooks("active"):
            return False
    except RuntimeError:
        return True


def _convolution(
    wanted: Wanted,
    func: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    dims = _CONVOLUTIONS[func]
    unbatched = input.dim() != dims + 2
    if unbatched or isinstance(padding, str) or not _covered(input, weight, bias):
        return func(input, weight, bias, stride, padding, dilation, groups)
    geometry = (
        _tuple(stride, dims),
        _tuple(padding, dims),
        _tuple(dilation, dims),
        False,
        [0] * dims,
        groups,
    )
    device = input.device.type
    dtype = autocast_dtype(device)
    if dtype is not None:
        input, weight, bias = (_autocast(t, dtype) for t in (input, weight, bias))
        with torch.autocast(device, enabled=False):
            return Convolution.apply(input, weight, bias, geometry, wanted)
    return Convolution.apply(input, weight, bias, geometry, wanted)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    single = input.numel() == input.shape[1]  # PyTorch refuses one value per channel
    if not training or single or not _covered(input, weight, bias):
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    running = (running_mean, running_var)
    return BatchNorm.apply(input, weight, bias, running, momentum, eps)


def _relu(input: Tensor, inplace: bool = False) -> Tensor:
    if inplace or not _covered(input):
        return F.relu(input, inplace)
    return Relu.apply(input, 0.0)


def _leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    if inplace or not negative_slope > 0 or not _covered(input):
        return F.leaky_relu(input, negative_slope, inplace)
    return Relu.apply(input, negative_slope)


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    # torch's own has no second derivative.
    values = F.relu6(input + 3) / 6
    return input.copy_(values) if inplace else values


def _max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    window = kernel_size, stride or kernel_size, padding, dilation
    if return_indices or input.dim() != 4 or not _covered(input):
        native: Callable[..., Any] = F.max_pool2d
        return native(input, *window, ceil_mode, return_indices)
    return MaxPool2d.apply(input, (*(_tuple(part, 2) for part in window), ceil_mode))


_OURS: dict[Any, Callable[..., Any]] = {
    F.batch_norm: _batch_norm,
    F.relu: _relu,
    torch.relu: _relu,
    Tensor.relu: _relu,
    F.leaky_relu: _leaky_relu,
    F.hardsigmoid: _hardsigmoid,
    F.max_pool2d: _max_pool2d,
    torch.max_pool2d: _max_pool2d,
}


def _covered(input: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> bool:
    leaves = all(parameter is None or parameter.is_leaf for parameter in (weight, bias))
    return leaves and input.is_floating_point()


def _autocast(tensor: Tensor | None, dtype: torch.dtype) -> Any:
    """Casts as autocast does: float64 stays."""
    return tensor if tensor is None or tensor.dtype == torch.float64 else tensor.to(dtype)


def _tuple(value: Any, dims: int) -> list[int]:
    return list(value) if isinstance(value, (tuple, list)) else [int(value)] * dims

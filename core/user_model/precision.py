"""This module says how a network is computed: in float32, or under autocast with a loss scale.

Autocast and the loss scale are those of the region that the caller is in, so that a policy or a
method of somebody's own follows them without a word about them in its signature.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

from core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

PrecisionName = Literal["float32", "bf16", "fp16"]
PRECISIONS: tuple[PrecisionName, ...] = ("float32", "bf16", "fp16")

_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}

_SCALER: ContextVar[torch.amp.GradScaler | None] = ContextVar("scaler", default=None)


class Precision:
    """This is how one training computes its forward passes.

    Weights, losses and the optimizer stay in float32. float16 has a `GradScaler` of its own.

    Args:
        name: one of PRECISIONS.
        device: where the network is.

    Attributes:
        dtype: of autocast; None in float32.
        scaler: of float16; else None.

    Raises:
        ValueError: as `check_precision`.
    """

    def __init__(self, name: PrecisionName, device: torch.device):
        check_precision(name, device)
        self._device_type = device.type
        self.dtype: torch.dtype | None = getattr(torch, _DTYPES.get(name, ""), None)
        self.scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None

    @contextlib.contextmanager
    def region(self) -> Iterator[None]:
        """Inside, networks are computed so, and `loss_scaler` is this training's."""
        if self.dtype is None:
            yield
            return
        token = _SCALER.set(self.scaler)
        # Without the cache: a weight that was cast without a gradient would be used with one.
        try:
            with torch.autocast(self._device_type, dtype=self.dtype, cache_enabled=False):
                yield
        finally:
            _SCALER.reset(token)

    def prepare(self, network: nn.Module) -> None:
        """Lets a network return float32 whatever it computes in: a softmax in bf16 has two
        digits."""
        if self.dtype is not None:
            network.register_forward_hook(_in_float32)

    def state_dict(self) -> dict[str, Any]:
        """Returns the loss scale, for a checkpoint."""
        return {} if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads what `state_dict` gave."""
        if self.scaler is not None:
            self.scaler.load_state_dict(state)


def forget_casts() -> None:
    """Lets the passes that follow in a user's autocast region cast weights anew.

    Call it after a pass without gradients: torch keeps its casts, and older versions would use them
    in the pass with gradients, where the weights would then get none.
    """
    torch.clear_autocast_cache()


def check_precision(name: PrecisionName, device: torch.device | str) -> None:
    """Raises ValueError where the device does not compute in this precision."""
    kind = torch.device(device).type
    if name == "float32":
        return
    if not torch.amp.is_autocast_available(kind):
        raise ValueError(f"precision={name} needs autocast, which {kind} has not; choose float32")
    if name == "bf16":
        if kind == "cuda" and not torch.cuda.is_bf16_supported():
            raise ValueError("precision=bf16: this GPU has no bfloat16; choose fp16 or float32")
        return
    # By emulation a step takes twenty times as long as in float32.
    if kind == "mps" or (kind == "cpu" and _cpu_computes("fp16") is not True):
        raise ValueError(
            f"precision=fp16: {kind} has no float16 arithmetic for training here; choose bf16 or "
            "float32, or a GPU with --device cuda"
        )


def is_emulated(name: PrecisionName, device: torch.device | str) -> bool:
    """Says whether the device is a CPU without arithmetic of this precision. torch makes up for it,
    and convolutions take many times as long as in float32."""
    of_cpu = torch.device(device).type == "cpu" and name != "float32"
    return of_cpu and _cpu_computes(name) is False


def _cpu_computes(name: PrecisionName) -> bool | None:
    """Says whether this CPU has arithmetic of half a precision; None: there is no oneDNN to ask."""
    try:
        return bool(getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported")())
    except (AttributeError, RuntimeError):
        return None


def wide_dtype(device: torch.device) -> torch.dtype:
    """Returns what sums are kept in: float64, and float32 on MPS, which has nothing wider."""
    return torch.float32 if device.type == "mps" else torch.float64


def loss_scaler() -> torch.amp.GradScaler | None:
    """Returns the scaler of the region that the caller is in, or None."""
    return _SCALER.get()


def loss_scale() -> float:
    """Returns the loss scale of the region that the caller is in; 1 where there is none."""
    scaler = loss_scaler()
    return 1.0 if scaler is None else float(scaler.get_scale())


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """Returns the dtype of the autocast region that the caller is in.

    None stands for no region, and for a device that autocast does not know, such as meta.
    """
    if not torch.amp.is_autocast_available(device_type):
        return None
    if not torch.is_autocast_enabled(device_type):
        return None
    return torch.get_autocast_dtype(device_type)


def autocast_region(
    device_type: str, dtype: torch.dtype | None
) -> contextlib.AbstractContextManager[object]:
    """Returns autocast to `dtype`, or the region that the caller is in where it is None.

    Raises:
        ValueError: it is not one of the two types that autocast computes in.
    """
    if dtype is None:
        return contextlib.nullcontext()
    if dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(
            f"autocast={dtype!r} is no type to compute in; give torch.bfloat16 or torch.float16, "
            "or None for the region that you are in"
        )
    return torch.autocast(device_type, dtype=dtype)


def outside_autocast(device_type: str) -> contextlib.AbstractContextManager[object]:
    """Returns a region without autocast, for backward passes: they follow their forward passes."""
    if autocast_dtype(device_type) is None:
        return contextlib.nullcontext()
    return torch.autocast(device_type, enabled=False)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Takes the gradient of a loss (scalar) and the optimizer's step, by the region's scaler."""
    scaler = loss_scaler()
    with outside_autocast(loss.device.type):
        (loss if scaler is None else scaler.scale(loss)).backward()
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()


def _in_float32(module: nn.Module, inputs: Any, output: Any) -> Any:
    if not isinstance(output, torch.Tensor) or not output.is_floating_point():
        return output
    return output.to(torch.promote_types(output.dtype, torch.float32))

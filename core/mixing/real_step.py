"""The real step on a mixed batch, which every policy shares (Algorithm 1, lines 7 and 8)."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor, nn

from core.mixing.batch import Batch, Loss, check_batch, is_number, soft_cross_entropy
from core.mixing.interpolation import Interpolation
from core.mixing.kinds import takes_tokens
from core.user_model.logits import LogitsOf, with_logits
from core.user_model.precision import autocast_region, loss_scaler, outside_autocast
from core.user_model.untraced import untraced


@dataclass(frozen=True)
class StepResult:
    """What one training step did. All tensors detached.

    Attributes:
        loss: scalar; loss of the re-mixed batch before the real step (Algorithm 1, line 8).
        lam, lam_init, hypergradient: [B]; see `Interpolation`.
        partner: [B], int64.
        meta_loss: scalar; validation loss after the virtual step (Eq. 8).

    Examples:
        >>> import torch, core
        >>> model = torch.nn.Linear(4, 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> batch = torch.randn(8, 4), torch.arange(8) % 3
        >>> result = core.metamixup_step(model, optimizer, batch, batch)
        >>> result.lam.shape, result.hypergradient.shape
        (torch.Size([8]), torch.Size([8]))
    """

    loss: Tensor
    lam: Tensor
    lam_init: Tensor
    partner: Tensor
    hypergradient: Tensor | None
    meta_loss: Tensor | None


@untraced
def mixed_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    interpolation: Interpolation,
    *,
    loss: Loss = soft_cross_entropy,
    autocast: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
    clip_grad_norm: float | None = None,
    micro_batch: tuple[int, int] = (0, 1),
    logits_of: LogitsOf | None = None,
) -> StepResult:
    """Takes the real step on the batch mixed as `interpolation` says (Algorithm 1, lines 7 and 8).

    Arguments and result as in `metamixup_step`; this is the whole of a step of plain MixUp.

    Raises:
        ValueError: for a batch that is none or that `interpolation` is not of; as `metamixup_step`.

    Examples:
        >>> import torch, core
        >>> model = torch.nn.Linear(4, 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> batch = torch.randn(8, 4), torch.arange(8) % 3
        >>> interpolation = core.Beta(0.2)(model, optimizer, batch)
        >>> bool(core.mixed_step(model, optimizer, batch, interpolation).loss > 0)
        True
    """
    scaler = loss_scaler() if scaler is None else scaler
    check_real_step(optimizer, scaler, micro_batch, clip_grad_norm)
    if not isinstance(interpolation, Interpolation):
        raise ValueError(
            "interpolation must be the core.Interpolation that a policy gave, got "
            f"{type(interpolation).__name__}"
        )
    check_batch(batch, "training", tokens=takes_tokens(interpolation.mixing))
    model = with_logits(model, logits_of)
    index, count = micro_batch

    def backward() -> Tensor:
        if index == 0:
            optimizer.zero_grad()
        # The meta stage takes no harm from a caller's torch.no_grad, and neither does this.
        with torch.enable_grad(), autocast_region(batch[0].device.type, autocast):
            value = interpolation.objective(model, batch, loss)
        share = value / count if count > 1 else value
        with outside_autocast(value.device.type):
            (share if scaler is None else scaler.scale(share)).backward()
        if clip_grad_norm is not None and index == count - 1:
            if scaler is not None:
                scaler.unscale_(optimizer)
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, clip_grad_norm)
        return value.detach()

    if isinstance(optimizer, torch.optim.LBFGS):
        value = torch.as_tensor(optimizer.step(backward))
    else:
        value = backward()
        if index == count - 1:
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
    return StepResult(
        loss=value,
        lam=interpolation.lam.detach(),
        lam_init=interpolation.lam_init,
        partner=interpolation.partner,
        hypergradient=interpolation.hypergradient,
        meta_loss=interpolation.meta_loss,
    )


def check_real_step(
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    micro_batch: tuple[int, int],
    clip_grad_norm: float | None = None,
) -> None:
    """Raises ValueError where the optimizer cannot take such a step."""
    pair = isinstance(micro_batch, (tuple, list)) and len(micro_batch) == 2
    index, count = micro_batch if pair else (0, 0)
    whole = isinstance(index, Integral) and isinstance(count, Integral)
    if not (whole and 0 <= index < count):
        raise ValueError(f"micro_batch must be (i, k) with 0 <= i < k, got {micro_batch!r}")
    norm = clip_grad_norm
    if norm is not None and not (is_number(norm) and norm > 0):
        raise ValueError(f"clip_grad_norm must be above 0, got {clip_grad_norm!r}")
    if not hasattr(optimizer, "param_groups"):
        raise ValueError(f"optimizer must be one of torch.optim, got {type(optimizer).__name__}")
    if scaler is not None and not hasattr(scaler, "unscale_"):
        raise ValueError(f"scaler must be a torch.amp.GradScaler, got {scaler!r}")
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "a step needs gradients, which torch.inference_mode forbids; leave it around this call "
            "(torch.no_grad does no harm)"
        )
    if not isinstance(optimizer, torch.optim.LBFGS):
        return
    if scaler is not None and scaler.is_enabled():
        raise ValueError(
            "LBFGS evaluates its gradient several times a step and cannot be used with a "
            "GradScaler; leave `scaler` out (bfloat16 autocast needs none)"
        )
    if count > 1:
        raise ValueError(
            "LBFGS evaluates its gradient several times a step and cannot accumulate it over "
            f"{count} micro-batches; leave `micro_batch` out"
        )

"""d(validation loss)/d(λ) of any model (Eq. 9; Algorithm 1, lines 4 to 6), without side effect."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from core.engines import ENGINES
from core.inner_step import LearningRate, current_rates
from core.meta_problem import MetaGradient, MetaProblem
from core.mixing import Batch, Loss, check_batch, check_lam, check_partner, soft_cross_entropy

Engine = Literal["auto", "unroll", "double_backward"]


def hypergradient(
    model: nn.Module,
    batch: Batch,
    val_batch: Batch,
    lam: Tensor,
    partner: Tensor,
    *,
    lr: LearningRate | None = None,
    engine: Engine = "auto",
    optimizer: torch.optim.Optimizer | None = None,
    loss: Loss = soft_cross_entropy,
) -> Tensor:
    """d(meta loss)/d(lam_i) through one virtual step from the model's present parameters (Eq. 9).

    Sample i is mixed as `lam_i·x_i + (1 − lam_i)·x_partner_i`, labels alike; the virtual step is
    plain gradient descent at `lr` (Eq. 7), or `optimizer`'s own step with momentum, weight decay
    and state; the meta loss is `loss` on the validation batch at the stepped parameters (Eq. 8).

    Nothing is changed: no parameter, gradient, optimizer state, buffer, mode or random stream. In
    training mode BatchNorm uses batch statistics in both virtual passes.

    Args:
        model: maps x [n, ...] to logits [n, C]. Frozen and tied parameters are respected.
        batch: x [B, ...] floating; y [B] integer or [B, C] soft.
        val_batch: the same with any size M ≥ 1.
        lam: [B], floating, in [0, 1].
        partner: [B], int64, in [0, B).
        lr: one rate, or one for each parameter name. Needed without `optimizer`; with it, it must
            be left out or equal each group's own rate.
        engine: "unroll" (through `higher`), "double_backward", or "auto", the faster of them. Both
            are exact.
        optimizer: SGD, Adam, AdamW or another one that `higher` makes differentiable.
        loss: (logits [n, C], target [n] or [n, C]) → scalar mean, twice differentiable.

    Returns:
        [B], lam's dtype and device, detached.

    Raises:
        ValueError: shapes, dtypes or values are off; neither `lr` nor `optimizer` is given; the
            model is wrapped for several devices; nothing in it is trainable.
    """
    check_batch(batch, "training")
    check_lam(lam, batch[0].shape[0])
    check_partner(partner, batch[0].shape[0])
    return meta_gradient(
        model,
        batch,
        val_batch,
        lam,
        partner,
        lr=lr,
        engine=engine,
        optimizer=optimizer,
        loss=loss,
    ).hypergradient


def meta_gradient(
    model: nn.Module,
    batch: Batch,
    val_batch: Batch,
    lam: Tensor,
    partner: Tensor,
    *,
    lr: LearningRate | None = None,
    engine: Engine = "auto",
    optimizer: torch.optim.Optimizer | None = None,
    loss: Loss = soft_cross_entropy,
    scale: float = 1.0,
) -> MetaGradient:
    """`hypergradient` with the losses that it passes on its way.

    Args:
        scale: both losses are multiplied by it before their backward passes and the derivatives
            divided again, against underflow in float16 (`GradScaler.get_scale()`).

    The rest, and what it promises, is as in `hypergradient`; `lam`'s values are not checked.
    """
    check_batch(val_batch, "meta-validation")
    if engine not in ("auto", *ENGINES):
        raise ValueError(f"engine must be one of auto, {', '.join(ENGINES)}; got {engine!r}")
    module = unwrap(model)
    originals = dict(module.named_parameters())
    # Fresh leaves over the same storage: hooks on the user's parameters do not fire.
    theta = {n: p.detach().requires_grad_() for n, p in originals.items() if p.requires_grad}
    if not theta:
        raise ValueError("the model has no trainable parameter: the virtual step would be empty")
    devices = sorted({p.device.index for p in originals.values() if p.is_cuda})
    # Dropout in the virtual passes draws from a copy of the stream: the masks are those that the
    # real step will draw, and the stream stands where it stood.
    with torch.enable_grad(), torch.random.fork_rng(devices=devices), _twice_differentiable():
        problem = MetaProblem(
            model=module,
            theta=theta,
            originals=dict(originals),
            batch=batch,
            val_batch=val_batch,
            lam=lam.detach().requires_grad_(),
            partner=partner,
            loss=loss,
            lr=_checked_rates(lr, optimizer, originals),
            optimizer=optimizer,
            scale=scale,
        )
        result = ENGINES["double_backward" if engine == "auto" else engine](problem)
    return MetaGradient(
        result.hypergradient.detach(), result.meta_loss.detach(), result.virtual_loss.detach()
    )


@contextlib.contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Compiled parts run eagerly, attention in its plain kernel: the others differentiate once."""
    set_stance = getattr(torch.compiler, "set_stance", None)  # torch 2.6 and later
    # Where nothing was compiled, Dynamo is not loaded, and loading it takes seconds.
    with contextlib.ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if set_stance is not None and "torch._dynamo" in sys.modules:
            stack.enter_context(set_stance("force_eager"))
        yield


def unwrap(model: nn.Module) -> nn.Module:
    """The plain module under `torch.compile`, whose graphs have no double backward.

    Raises:
        ValueError: the model is wrapped for several devices.
    """
    compiled = getattr(model, "_orig_mod", None)
    if isinstance(compiled, nn.Module):
        model = compiled
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise ValueError(
            f"the model is wrapped in {type(model).__name__}, whose gradient reduction has no "
            "double backward; pass its `.module` and reduce the gradients of the real step yourself"
        )
    return model


def _checked_rates(
    lr: LearningRate | None,
    optimizer: torch.optim.Optimizer | None,
    parameters: Mapping[str, Tensor],
) -> LearningRate | None:
    if lr is None:
        if optimizer is None:
            raise ValueError("give the virtual step either `lr` or `optimizer`")
        return None
    given = lr if isinstance(lr, Mapping) else dict.fromkeys(parameters, float(lr))
    for name, p in parameters.items():
        if p.requires_grad and name not in given:
            raise ValueError(f"lr has no rate for parameter {name!r}; it has {sorted(given)}")
        if p.requires_grad and not 0 <= given[name] < float("inf"):
            raise ValueError(f"lr must be finite and >= 0, got {given[name]} for {name!r}")
    if optimizer is not None:
        for name, rate in current_rates(optimizer, parameters).items():
            if name in given and parameters[name].requires_grad and rate != given[name]:
                raise ValueError(
                    f"lr says {given[name]} for parameter {name!r}, the optimizer {rate}; "
                    "leave `lr` out to take the optimizer's"
                )
    return lr

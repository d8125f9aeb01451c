"""d(validation loss)/d(λ): the engines (Eqs. 7 to 9; Algorithm 1, lines 4 to 6).

With L the loss of the mixed batch at θ, θ′ the parameters after one virtual step, and v the
gradient of the validation loss at θ′, the hypergradient is `(∂θ′/∂λ)ᵀ v`; for plain descent at
rate η it is `−∂/∂λ ⟨∇θ L(θ; λ), η·v⟩`. The engines differ in how they get there, not in what they
compute.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from core.inner_step import LearningRate, current_rates, descend, differentiable, gradient_descent
from core.mixing import (
    Batch,
    Loss,
    check_batch,
    check_lam,
    check_partner,
    mix_inputs,
    mix_labels,
    soft_cross_entropy,
    soft_labels,
)

Engine = Literal["auto", "unroll", "double_backward"]


@dataclass(frozen=True)
class MetaGradient:
    """What one meta stage yields. `hypergradient` [B], `meta_loss` and `virtual_loss` scalars."""

    hypergradient: Tensor
    meta_loss: Tensor
    virtual_loss: Tensor


@dataclass(frozen=True)
class _Problem:
    """One bilevel problem, its model already a function of the parameters that are trained."""

    model: nn.Module
    theta: dict[str, Tensor]
    originals: dict[str, Tensor]
    batch: Batch
    val_batch: Batch
    lam: Tensor
    partner: Tensor
    loss: Loss
    lr: LearningRate | None
    optimizer: torch.optim.Optimizer | None
    scale: float

    def logits(self, theta: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The model at `theta`, [n, C]. Buffers are copies: BatchNorm statistics do not move."""
        buffers = {name: b.clone() for name, b in self.model.named_buffers()}
        out = functional_call(self.model, ({**theta, **buffers},), (x,))
        if not isinstance(out, Tensor) or out.dim() != 2 or out.shape[0] != x.shape[0]:
            shape = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"the model must return logits [{x.shape[0]}, C], got {shape}")
        return out

    def virtual_loss(self, theta: Mapping[str, Tensor]) -> Tensor:
        """Loss of the mixed batch (Algorithm 1, lines 4 and 5). Scalar."""
        x, y = self.batch
        logits = self.logits(theta, mix_inputs(x, self.lam, self.partner))
        return self.loss(logits, mix_labels(y, self.lam, self.partner, logits.shape[1]))

    def meta_loss(self, theta: Mapping[str, Tensor]) -> Tensor:
        """Loss of the validation batch (Eq. 8). Scalar."""
        x, y = self.val_batch
        logits = self.logits(theta, x)
        soft_labels(y, logits.shape[1], dtype=logits.dtype)  # refuses labels out of range
        return self.loss(logits, y)

    def rates(self) -> list[float]:
        if self.lr is None or isinstance(self.lr, Mapping):
            rates = self.lr or {}
            return [float(rates[name]) for name in self.theta]
        return [float(self.lr)] * len(self.theta)


def _unroll(problem: _Problem) -> MetaGradient:
    """Reverse mode through the whole virtual step, as `higher` unrolls it. Exact."""
    names = list(problem.theta)
    theta = list(problem.theta.values())
    if problem.optimizer is not None:
        step = differentiable(problem.optimizer, list(problem.originals.values()))
        names_all, theta_all = list(problem.originals), []
        for name in names_all:
            theta_all.append(problem.theta.get(name, problem.originals[name].detach()))
    else:
        step = gradient_descent(theta, problem.rates())
        names_all, theta_all = names, theta
    virtual_loss = problem.virtual_loss(problem.theta)
    stepped = step.step(
        virtual_loss * problem.scale, params=theta_all, grad_callback=_unscale(problem)
    )
    prime = dict(zip(names_all, stepped, strict=True))
    meta_loss = problem.meta_loss({name: prime[name] for name in names})
    (hypergradient,) = torch.autograd.grad(meta_loss * problem.scale, problem.lam)
    return MetaGradient(hypergradient / problem.scale, meta_loss.detach(), virtual_loss.detach())


def _double_backward(problem: _Problem) -> MetaGradient:
    """The gradient of ⟨∇θ L(θ; λ), w⟩ with w = (∂θ′/∂g)ᵀ v held fixed. Exact.

    Against the unroll it keeps no graph of the virtual step and of the validation pass.
    """
    theta = list(problem.theta.values())
    virtual_loss = problem.virtual_loss(problem.theta)
    graph = torch.autograd.grad(
        virtual_loss * problem.scale, theta, create_graph=True, allow_unused=True
    )
    used = [i for i, g in enumerate(graph) if g is not None]
    gradient = [
        torch.zeros_like(p) if g is None else g.detach() / problem.scale
        for p, g in zip(theta, graph, strict=True)
    ]
    if problem.optimizer is None:
        rates = problem.rates()
        prime = [p.detach().requires_grad_() for p in descend(theta, gradient, rates)]
        meta_loss, v = _meta_gradient(problem, prime)
        cotangent = [-rate * g for rate, g in zip(rates, v, strict=True)]
    else:
        leaves = [g.requires_grad_() for g in gradient]
        stepped = _optimizer_step(problem, leaves, used)
        prime = [p.detach().requires_grad_() for p in stepped]
        meta_loss, v = _meta_gradient(problem, prime)
        differentiable_at = [i for i, p in enumerate(stepped) if p.requires_grad]
        cotangent = list(
            torch.autograd.grad(
                [stepped[i] for i in differentiable_at],
                leaves,
                [v[i] for i in differentiable_at],
                allow_unused=True,
                materialize_grads=True,
            )
        )
    (hypergradient,) = torch.autograd.grad(
        [graph[i] for i in used], problem.lam, [cotangent[i] for i in used]
    )
    return MetaGradient(hypergradient / problem.scale, meta_loss, virtual_loss.detach())


def _meta_gradient(problem: _Problem, prime: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The validation loss at θ′ and its gradient v there, parameters it does not use given 0."""
    meta_loss = problem.meta_loss(dict(zip(problem.theta, prime, strict=True)))
    v = torch.autograd.grad(
        meta_loss * problem.scale, prime, allow_unused=True, materialize_grads=True
    )
    return meta_loss.detach(), [g / problem.scale for g in v] if problem.scale != 1 else list(v)


def _optimizer_step(problem: _Problem, gradient: list[Tensor], used: list[int]) -> list[Tensor]:
    """θ′ of the user's optimizer as a function of the gradient g, through `higher`.

    Its `step` takes a loss, so it is given the linear one whose gradient is g.
    """
    assert problem.optimizer is not None
    step = differentiable(problem.optimizer, list(problem.originals.values()))
    theta = {name: p.detach().requires_grad_() for name, p in problem.theta.items()}
    names = list(theta)
    linear = torch.stack([(theta[names[i]] * gradient[i]).sum() for i in used]).sum()
    params = [theta.get(name, p.detach()) for name, p in problem.originals.items()]
    stepped = dict(zip(problem.originals, step.step(linear, params=params), strict=True))
    return [stepped[name] for name in names]


def _unscale(
    problem: _Problem,
) -> Callable[[list[Tensor | None]], list[Tensor | None]] | None:
    if problem.scale == 1:
        return None
    return lambda grads: [None if g is None else g / problem.scale for g in grads]


ENGINES: dict[str, Callable[[_Problem], MetaGradient]] = {
    "unroll": _unroll,
    "double_backward": _double_backward,
}


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
        problem = _Problem(
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
    eager = contextlib.nullcontext() if set_stance is None else set_stance("force_eager")
    with sdpa_kernel(SDPBackend.MATH), eager:
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

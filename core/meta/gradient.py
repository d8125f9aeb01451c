"""This module gives d(validation loss)/d(λ) of any model (Eq. 9), without side effect."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from core.meta.engines import ENGINES, FIRST_ORDER
from core.meta.inner_step import LearningRate, current_rates
from core.meta.problem import MetaGradient, MetaProblem, ProblemSettings
from core.meta.refusals import named_refusals
from core.mixing.batch import (
    Batch,
    Loss,
    check_batch,
    check_lam,
    check_partner,
    is_number,
    soft_cross_entropy,
)
from core.mixing.kinds import INPUT, Mixing, takes_tokens
from core.user_model.blocks import last_blocks as names_of_last_blocks
from core.user_model.logits import LogitsOf, with_logits
from core.user_model.memory import refuse_shared_memory
from core.user_model.process_wide import eagerly, plain_attention, without_cudnn
from core.user_model.untouched import aside
from core.user_model.untraced import untraced
from core.user_model.wrapped_models import logits_of as logits_of_wrapped
from core.user_model.wrapped_models import ranks_of, unwrap

if TYPE_CHECKING:
    from typing_extensions import Unpack

Engine = Literal[
    "auto", "unroll", "double_backward", "forward_reverse", "finite_difference", "compiled"
]

AUTO = "double_backward"
"""What `engine="auto"` stands for: in `studies/cost.py` the fastest of the exact ones."""


class StageSettings(ProblemSettings, total=False):
    """These are the settings of a meta stage: those of `meta_problem`."""

    lr: LearningRate | None
    last_blocks: int | None
    logits_of: LogitsOf | None


@untraced
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
    mixing: Mixing = INPUT,
    last_blocks: int | None = None,
    logits_of: LogitsOf | None = None,
) -> Tensor:
    """Returns d(meta loss)/d(lam_i) through one virtual step from the present parameters (Eq. 9).

    Sample i is mixed as `lam_i·x_i + (1 − lam_i)·x_partner_i`, labels alike; the virtual step is
    plain gradient descent at `lr` (Eq. 7), or `optimizer`'s own step with momentum, weight decay
    and state; the meta loss is `loss` on the validation batch at the stepped parameters (Eq. 8).

    Nothing is changed: no parameter, gradient, optimizer state, buffer, mode or random stream. In
    training mode BatchNorm uses batch statistics in both virtual passes.

    The virtual passes see the model and the loss alone. Gradient hooks of parameters act in the
    real step only; parameters that `optimizer` does not hold, as where a second optimizer has them,
    count as constants; a loss that keeps count in buffers is called twice more a step; a thread
    that runs the same model meanwhile may meet the stepped parameters. Threads with models of their
    own give what each gives alone, where each draws from a `torch.Generator` of its own: the global
    streams are put back, also over what another thread has drawn meanwhile.

    Under DistributedDataParallel every rank gives its share of the batch and of the validation
    batch, and gets the derivative of the loss of all of them together with respect to its own λ;
    shares of equal size make it that of one process on the joined batch. All ranks take the same
    θ′.

    Args:
        model: maps x [n, ...] to logits [n, C], or see `logits_of`. Frozen and tied parameters are
            respected, as are `torch.compile` (the meta stage runs the plain module) and activation
            checkpointing (`use_reentrant=False`).
        batch: x [B, ...] floating; y [B] integer or [B, C] soft.
        val_batch: the same with any size M ≥ 1.
        lam: [B], floating, in [0, 1].
        partner: [B], int64, in [0, B).
        lr: one rate, or one for each parameter name. Needed without `optimizer`; with it, it must
            be left out or equal each group's own rate.
        engine: exact ones: "double_backward", which "auto" takes; "unroll", through `higher`;
            "forward_reverse", by dual numbers; "compiled", one `torch.compile` graph. Approximate,
            by first-order passes only, for half the memory: "finite_difference". See
            `core.meta.engines`; `studies/cost.py` measures them.
        optimizer: SGD, Adam, AdamW or another one that `higher` makes differentiable.
        loss: (logits [n, C], target [n] or [n, C]) → scalar mean, twice differentiable; or a
            `MixedLoss`, such as `IndexLoss`.
        mixing: where the pairs are blended, with what it draws drawn; see `Mixing`.
        last_blocks: the virtual step moves the parameters of the last so many blocks alone (see
            `core.blocks`), and the rest are constants: cheaper, and an approximation. None: all.
        logits_of: how the logits are taken from what the model returns, where it returns more: a
            key, an attribute's name, a position or a function; see `with_logits`.

    Returns:
        [B], lam's dtype and device, detached.

    Raises:
        ValueError: shapes, dtypes or values are off; neither `lr` nor `optimizer` is given; the
            model's parameters are split over devices; nothing in it is trainable; the engine
            cannot do what is asked.

    Examples:
        >>> import torch, core
        >>> model = torch.nn.Linear(4, 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> batch = torch.randn(8, 4), torch.arange(8) % 3
        >>> lam, partner = torch.full((8,), 0.5), torch.arange(8).flip(0)
        >>> core.hypergradient(model, batch, batch, lam, partner, lr=0.1).shape
        torch.Size([8])
    """
    check_batch(batch, "training", tokens=takes_tokens(mixing))
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
        mixing=mixing,
        last_blocks=last_blocks,
        logits_of=logits_of,
    ).hypergradient


@untraced
def meta_gradient(
    model: nn.Module,
    batch: Batch,
    val_batch: Batch,
    lam: Tensor,
    partner: Tensor,
    *,
    engine: Engine = "auto",
    **settings: Unpack[StageSettings],
) -> MetaGradient:
    """Returns the `hypergradient` with the losses that it passes on its way.

    Args:
        settings: those of `hypergradient`, and
        scale: both losses are multiplied by it before their backward passes and the derivatives
            divided again, against underflow in float16 (`GradScaler.get_scale()`).
        validation_gradient: validation loss and gradient of an earlier stage, used in place of a
            virtual step and a validation pass; see `ValidationGradient`.
        validation_loss: of the validation batch, in place of `loss`.
        averaged: gives the v to be used from the one computed here.

    The rest, and what it promises, is as in `hypergradient`; `lam`'s values are not checked.
    """
    if engine not in ("auto", *ENGINES):
        raise ValueError(f"engine must be one of auto, {', '.join(ENGINES)}; got {engine!r}")
    name = AUTO if engine == "auto" else engine
    with (
        meta_problem(model, batch, val_batch, lam, partner, **settings) as problem,
        named_refusals(name, lambda other: _works(other, problem)),
    ):
        result = _run(name, problem)
    return MetaGradient(
        # The joint loss is the mean over the ranks of each one's own.
        result.hypergradient.detach() / problem.ranks.size,
        result.meta_loss.detach(),
        result.virtual_loss.detach(),
        None if problem.validation_gradient is not None else result.validation,
    )


@contextlib.contextmanager
def meta_problem(
    model: nn.Module,
    batch: Batch,
    val_batch: Batch,
    lam: Tensor,
    partner: Tensor,
    *,
    last_blocks: int | None = None,
    lr: LearningRate | None = None,
    logits_of: LogitsOf | None = None,
    **settings: Unpack[ProblemSettings],
) -> Iterator[MetaProblem]:
    """Inside, passes at other parameters leave model and random streams as they stand.

    Arguments as in `meta_gradient`.
    """
    check_batch(val_batch, "meta-validation", tokens=takes_tokens(settings.get("mixing", INPUT)))
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "λ is learned by gradients, which torch.inference_mode forbids; leave it around this "
            "call (torch.no_grad does no harm)"
        )
    model = with_logits(model, logits_of)
    module = unwrap(model)
    originals: dict[str, Tensor] = dict(module.named_parameters())
    for name, value in (*originals.items(), *module.named_buffers()):
        if is_lazy(value):
            raise ValueError(
                f"{name!r} is of a lazy layer that has seen no batch; run one through the model "
                "first"
            )
    refuse_shared_memory(originals)
    # Leaves of our own: hooks on the user's parameters do not fire, and a forward pass that writes
    # to a parameter (max-norm, clamping) writes to the copy.
    theta = {
        name: originals[name].detach().clone().requires_grad_()
        for name in moved_parameters(module, last_blocks)
    }
    if not theta:
        what = "the model has" if last_blocks is None else f"its last {last_blocks} blocks have"
        raise ValueError(f"{what} no trainable parameter: the virtual step would be empty")
    with torch.enable_grad(), aside(module):
        yield MetaProblem(
            model=module,
            logits_of=logits_of_wrapped(model),
            theta=theta,
            originals=originals,
            batch=batch,
            val_batch=val_batch,
            lam=lam.detach().requires_grad_(),
            partner=partner,
            lr=_checked_rates(lr, settings.get("optimizer"), originals),
            ranks=ranks_of(model),
            **settings,
        )


def _run(engine: str, problem: MetaProblem) -> MetaGradient:
    with kernels_for(engine, problem.model):
        return ENGINES[engine](problem)


def _works(engine: str, problem: MetaProblem) -> bool:
    try:
        _run(engine, problem)
    except (RuntimeError, ValueError):
        return False
    return True


def moved_parameters(module: nn.Module, last_blocks: int | None) -> tuple[str, ...]:
    """Returns the names of the parameters that the virtual step moves, in the model's order.

    Args:
        module: the plain module.
        last_blocks: as in `hypergradient`.
    """
    through = None if last_blocks is None else names_of_last_blocks(module, last_blocks)
    return tuple(
        name
        for name, p in module.named_parameters()
        if p.requires_grad and (through is None or name in through)
    )


@contextlib.contextmanager
def kernels_for(engine: str, module: nn.Module) -> Iterator[None]:
    """Runs attention plainly, and compiled parts eagerly, for engines of second order.

    The others differentiate once.
    """
    with contextlib.ExitStack() as stack:
        if engine not in FIRST_ORDER:
            stack.enter_context(plain_attention())
            if any(isinstance(layer, nn.RNNBase) for layer in module.modules()):
                stack.enter_context(without_cudnn())
            # Where nothing was compiled, Dynamo is not loaded, and loading it takes seconds.
            if engine != "compiled" and "torch._dynamo" in sys.modules:
                stack.enter_context(eagerly())
        yield


def _checked_rates(
    lr: LearningRate | None,
    optimizer: torch.optim.Optimizer | None,
    parameters: Mapping[str, Tensor],
) -> LearningRate | None:
    if lr is None:
        if optimizer is None:
            raise ValueError("give the virtual step either `lr` or `optimizer`")
        return None
    if not (isinstance(lr, Mapping) or is_number(lr)):
        raise ValueError(f"lr must be one rate, or one for each parameter name, got {lr!r}")
    given = lr if isinstance(lr, Mapping) else dict.fromkeys(parameters, float(lr))
    for name, p in parameters.items():
        if p.requires_grad and name not in given:
            raise ValueError(f"lr has no rate for parameter {name!r}; it has {sorted(given)}")
        if not p.requires_grad:
            continue
        rate = given[name]
        if not is_number(rate) or not 0 <= rate < float("inf"):
            raise ValueError(f"lr must be finite and >= 0, got {rate!r} for {name!r}")
    if optimizer is not None:
        for name, rate in current_rates(optimizer, parameters).items():
            if name in given and parameters[name].requires_grad and rate != given[name]:
                raise ValueError(
                    f"lr says {given[name]} for parameter {name!r}, the optimizer {rate}; "
                    "leave `lr` out to take the optimizer's"
                )
    return lr

"""This module takes one dry step with a user's model and says what learning λ would do with it."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor, nn

from core.meta.engines.once import other_parameters
from core.meta.engines.replay import Replay
from core.meta.examination import findings
from core.meta.examination.passes import Passes
from core.meta.examination.plain import PlainTraining
from core.meta.examination.report import Examination
from core.meta.inner_step import LearningRate
from core.mixing.batch import Batch, Loss, check_batch, draw_partners, soft_cross_entropy
from core.mixing.kinds import INPUT, Mixing, takes_tokens
from core.user_model.logits import LogitsOf, with_logits
from core.user_model.snapshot import Snapshot
from core.user_model.wrapped_models import logits_of as logits_of_wrapped
from core.user_model.wrapped_models import unwrap


def examine(
    model: nn.Module,
    batch: Batch,
    val_batch: Batch,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    lr: LearningRate | None = None,
    loss: Loss = soft_cross_entropy,
    mixing: Mixing = INPUT,
    logits_of: LogitsOf | None = None,
    seconds: float | None = 8.0,
) -> Examination:
    """Takes one dry step and reports what learning λ would do with this model, loss and data.

    Every engine but "compiled" runs one meta stage on the batch, with λ drawn between 0.2 and 0.8.
    Its time and memory are held against a plain step, its hypergradient against central differences
    of plain training along one direction of λ (in float64 where the model runs in it). The report
    has besides: operations without a second derivative, what modules keep outside of buffers, hooks
    that fire three times a step, data that are not finite, parameters that the optimizer lacks, and
    the engine to take.

    Nothing is changed: parameters, gradients, buffers, attributes, optimizer state, modes,
    `requires_grad` and random streams are bit-identical afterwards. The whole of it takes about 25
    plain steps; a few samples say as much as a full batch.

    Args:
        model: as in `metamixup_step`, with what is wrapped around it; in the mode in which it is
            trained.
        batch, val_batch, loss, mixing, logits_of: as in `metamixup_step`.
        optimizer: whose learning rates the virtual step takes, by plain descent.
        lr: one rate, or one for each parameter name, in its place.
        seconds: after so long no further engine is tried, the first apart; None: all are.

    Returns:
        `Examination`, whose text `print` shows.

    Raises:
        ValueError: as `hypergradient`, where plain training is not possible either.

    Examples:
        >>> import torch, core
        >>> model = torch.nn.Linear(4, 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> x, y = torch.randn(8, 4), torch.randint(3, (8,))
        >>> report = core.examine(model, (x, y), (x, y), optimizer=optimizer)
        >>> report.engines[0].engine, report.findings
        ('auto', ())
    """
    started = time.perf_counter()
    check_batch(batch, "training", tokens=takes_tokens(mixing))
    check_batch(val_batch, "meta-validation", tokens=takes_tokens(mixing))
    model = with_logits(model, logits_of)
    module = unwrap(model)
    snapshot = Snapshot({"": module, "optimizer": optimizer, "loss": loss})
    registered = [*module.parameters(), *module.buffers()]
    passing = Snapshot({"": module, "loss": loss}, but=registered)
    replay = Replay([*module.parameters(), batch[0]], module)
    deadline = float("inf") if seconds is None else started + seconds
    try:
        with torch.enable_grad(), replay():
            batch, notes = findings.usable(batch, "training")
            val_batch, more = findings.usable(val_batch, "meta-validation")
            rates, about_rates = findings.usable_rates(module, optimizer, lr)
            others = other_parameters(model, optimizer)
            plain = _plain(model, batch, val_batch, loss, mixing, rates, others, replay)
            notes += [*more, *about_rates, *findings.mode(module), *findings.hooks(module)]
            report = Passes(plain, passing, deadline, notes).report()
    finally:
        snapshot.restore()
    return replace(report, seconds=time.perf_counter() - started)


def _plain(
    model: nn.Module,
    batch: Batch,
    val_batch: Batch,
    loss: Loss,
    mixing: Mixing,
    rates: dict[str, float],
    others: list[Tensor],
    replay: Replay,
) -> PlainTraining:
    """Returns plain training with λ, pairs and the mixing's draws of its own, always the same."""
    x, stream = batch[0], torch.Generator().manual_seed(0)
    dtype = torch.promote_types(x.dtype, torch.float32)
    lam = (0.2 + 0.6 * torch.rand(len(x), generator=stream, device="cpu")).to(x.device, dtype)
    partner = draw_partners(len(x), generator=stream, device=x.device)
    return PlainTraining(
        module=unwrap(model),
        logits_of=logits_of_wrapped(model),
        batch=batch,
        val_batch=val_batch,
        lam=lam,
        partner=partner,
        loss=loss,
        mixing=mixing.draw(x, stream),
        rates=rates,
        others=others,
        replay=replay,
    )

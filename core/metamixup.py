"""MetaMixUp for supervised learning (Algorithm 1): the meta stage alone, and the whole step."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from core.meta.gradient import Engine
from core.meta.inner_step import LearningRate
from core.meta.reading import DEFAULT, Reading
from core.meta.stage import MetaOptions
from core.meta.validation_gradient import ValidationGradient
from core.mixing.batch import Batch, Loss, check_batch, soft_cross_entropy
from core.mixing.interpolation import Interpolation
from core.mixing.kinds import INPUT, Mixing, takes_tokens
from core.mixing.pairing import ANY, Pairing
from core.mixing.real_step import StepResult, check_real_step, mixed_step
from core.random_streams import unmoved_by_errors
from core.user_model.logits import LogitsOf, with_logits
from core.user_model.precision import autocast_region
from core.user_model.untraced import untraced
from core.user_model.wrapped_models import ranks_of


@untraced
def learn_interpolation(
    model: nn.Module,
    batch: Batch,
    val_batch: Batch,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    lr: LearningRate | None = None,
    reading: Reading = DEFAULT,
    step_size: float | None = None,
    engine: Engine = "auto",
    lam: Tensor | None = None,
    partner: Tensor | None = None,
    pairing: Pairing = ANY,
    permute: bool = False,
    mixing: Mixing = INPUT,
    last_blocks: int | None = None,
    validation_gradient: ValidationGradient | None = None,
    loss: Loss = soft_cross_entropy,
    generator: torch.Generator | None = None,
    autocast: torch.dtype | None = None,
    scale: float | None = None,
    logits_of: LogitsOf | None = None,
) -> Interpolation:
    """Runs the meta stage (Algorithm 1, lines 2 to 6): draws λ0 and pairs, learns λ*.

    No side effect: parameters, gradients, optimizer state, BatchNorm buffers and train/eval mode
    are bit-identical before and after. The random stream (`generator`, else torch's global CPU one)
    advances by what λ0 and the pairing draw, one integer and one permutation, and by nothing else;
    an error leaves it where it was.
    What the virtual passes do not see (gradient hooks and masks) or meet (losses that count, other
    threads) is said at `hypergradient`.

    Args:
        model: maps x [n, ...] to logits [n, C].
        batch: x [B, ...] floating; y [B] integer or [B, C] soft.
        val_batch: the meta-validation batch, any size M ≥ 1.
        optimizer: gives the learning rate of each parameter group, and the inner step itself where
            `reading.inner_step` is "optimizer".
        lr: the rate of a plain inner step, instead of `optimizer`.
        reading: what the paper leaves open; see `Reading`.
        step_size: overrides the reading's α.
        engine: see `hypergradient`.
        lam: λ0 [B] to start from, instead of a draw.
        partner: the pairing [B] to use, instead of a draw.
        pairing: how partners are drawn, and whether a sample outweighs its partner; see `Pairing`.
            λ0 given is folded too, and λ moves within [1/2, 1].
        permute: the placebo: hypergradients permuted within the batch before they move λ. The
            permutation is one more draw from the stream.
        mixing: where the pairs are blended: `InputMixing`, `AreaMixing` (boxes, as CutMix) or
            `HiddenMixing` (manifold MixUp). What it draws comes after λ0 and the pairing.
        last_blocks: see `hypergradient`.
        validation_gradient: keeps the validation gradient for several stages; one object for the
            whole training.
        loss: (logits [n, C], target [n] or [n, C]) → scalar mean, twice differentiable; or a
            `MixedLoss`, such as an `IndexLoss` around a loss that knows integer labels only.
        generator: the random stream.
        autocast: dtype of an autocast region around the virtual passes; None leaves the caller's.
        scale: loss scale of float16 training; see `meta_gradient`. None takes that of the region
            of a `core.user_model.precision.Precision`, 1 outside of one.
        logits_of: how the logits are taken from what the model returns; see `with_logits`.

    A hypergradient that is not finite moves nothing, since a NaN λ would make the real batch NaN
    and with it every weight. At a loss scale the stage is taken again at a 32nd of the scale, down
    to 1, until it is finite. A warning says where it never is, on the CPU: elsewhere each step
    would wait for the device, and `hypergradient` tells.

    Returns:
        `Interpolation` with `lam` [B] in float32 (float64 for float64 inputs).

    Raises:
        ValueError: as `hypergradient`; or the loss reads a parameter that `optimizer` holds and the
            model does not, which the virtual step would leave where it is.

    Examples:
        >>> import torch, core
        >>> model = torch.nn.Linear(4, 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> batch = torch.randn(8, 4), torch.arange(8) % 3
        >>> val_batch = torch.randn(6, 4), torch.arange(6) % 3
        >>> interpolation = core.learn_interpolation(
        ...     model, batch, val_batch, optimizer=optimizer
        ... )
        >>> interpolation.lam.shape
        torch.Size([8])
    """
    check_batch(batch, "training", tokens=takes_tokens(mixing))
    model = with_logits(model, logits_of)
    options = MetaOptions(reading, engine, mixing, last_blocks, validation_gradient, permute)
    if step_size is not None:
        reading = replace(reading, step_size=step_size)
        options = replace(options, reading=reading)
    with unmoved_by_errors(generator):
        lam_init, partner, options = options.drawn(batch[0], pairing, generator, lam, partner)
        z = reading.start(pairing.share(lam_init))
        ranks = ranks_of(model)
        extra_samples = 0
        for _ in range(reading.meta_steps):
            share = reading.virtual(z)
            lam = pairing.lam(share)
            with autocast_region(batch[0].device.type, autocast):
                slope = options.slope(
                    model,
                    batch,
                    val_batch,
                    lam,
                    partner,
                    optimizer=optimizer,
                    lr=lr,
                    loss=loss,
                    generator=generator,
                    scale=scale,
                )
            extra_samples += slope.samples
            z = reading.move(z, share, pairing.span * slope.moving, ranks)
    lam = pairing.lam(reading.final(z))
    unmoved = pairing.lam(reading.final(reading.start(pairing.share(lam_init))))
    return Interpolation(
        lam=lam,
        partner=partner,
        lam_init=lam_init,
        change=lam - unmoved,
        hypergradient=slope.hypergradient,
        meta_loss=slope.meta_loss,
        extra_samples=extra_samples,
        mixing=options.mixing,
    )


@untraced
def metamixup_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    val_batch: Batch,
    *,
    lr: LearningRate | None = None,
    reading: Reading = DEFAULT,
    step_size: float | None = None,
    engine: Engine = "auto",
    lam: Tensor | None = None,
    partner: Tensor | None = None,
    mixing: Mixing = INPUT,
    last_blocks: int | None = None,
    validation_gradient: ValidationGradient | None = None,
    loss: Loss = soft_cross_entropy,
    generator: torch.Generator | None = None,
    autocast: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
    clip_grad_norm: float | None = None,
    micro_batch: tuple[int, int] = (0, 1),
    logits_of: LogitsOf | None = None,
) -> StepResult:
    """Takes one iteration of MetaMixUp (Algorithm 1, lines 2 to 8) in an ordinary training loop.

    Learns λ* for this batch, mixes it anew, and takes the real step: gradients are zeroed, computed
    and given to `optimizer.step()`. A scheduler stays with the caller. Gradient hooks and masks act
    in that step alone, and forward hooks in all three passes; `core.examine` names them.

    Args:
        model: maps x [n, ...] to logits [n, C]; its mode (train or eval) is the caller's.
        optimizer: any `torch.optim` optimizer; LBFGS is given its closure.
        lr: the rate of a plain inner step, where `optimizer` has none to read; see
            `learn_interpolation`.
        batch, val_batch, reading, step_size, engine, lam, partner, mixing, last_blocks,
        validation_gradient, loss, generator: as in `learn_interpolation`.
        autocast: dtype (bfloat16, float16) of autocast around all forward passes.
        scaler: scales, unscales and skips the real step, and scales the virtual losses.
        clip_grad_norm: largest norm of the real step's gradient. The virtual step is not clipped.
        micro_batch: (i, k) for gradient accumulation: this batch is number i, from 0, of the k
            whose mean gradient makes one optimizer step. Gradients are zeroed at i = 0; clipping,
            scaler and optimizer act at i = k − 1. Each has a meta stage of its own. Under
            DistributedDataParallel call it inside `model.no_sync()` for i < k − 1.
        logits_of: how the logits are taken from what the model returns; see `with_logits`.

    Returns:
        `StepResult`.

    Raises:
        ValueError: as `hypergradient`; or `scaler` or several micro-batches are given beside LBFGS.

    Examples:
        >>> import torch, core
        >>> model = torch.nn.Linear(2, 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> x, y = torch.randn(8, 2), torch.randint(3, (8,))
        >>> result = core.metamixup_step(model, optimizer, (x, y), (torch.randn(4, 2), y[:4]))
        >>> result.lam.shape
        torch.Size([8])
    """
    check_real_step(optimizer, scaler, micro_batch, clip_grad_norm)
    model = with_logits(model, logits_of)
    interpolation = learn_interpolation(
        model,
        batch,
        val_batch,
        optimizer=optimizer,
        lr=lr,
        reading=reading,
        step_size=step_size,
        engine=engine,
        lam=lam,
        partner=partner,
        mixing=mixing,
        last_blocks=last_blocks,
        validation_gradient=validation_gradient,
        loss=loss,
        generator=generator,
        autocast=autocast,
        scale=float(scaler.get_scale()) if scaler is not None else None,
    )
    return mixed_step(
        model,
        optimizer,
        batch,
        interpolation,
        loss=loss,
        autocast=autocast,
        scaler=scaler,
        clip_grad_norm=clip_grad_norm,
        micro_batch=micro_batch,
    )

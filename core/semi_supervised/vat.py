"""This module is virtual adversarial training, with entropy if wanted (Miyato et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from core.meta.engines.replay import Replay
from core.meta.gradient import kernels_for
from core.mixing.batch import soft_cross_entropy
from core.semi_supervised.config import SemiSupervisedConfig
from core.semi_supervised.method import SemiBatch, SemiStep, SemiSupervisedMethod
from core.user_model.held_statistics import statistics_held
from core.user_model.logits import with_logits
from core.user_model.precision import descend, outside_autocast
from core.user_model.wrapped_models import logits_of, unwrap


class VAT(SemiSupervisedMethod):
    """The prediction shall hold where a small perturbation would change it most.

    Every pass takes labelled and unlabelled images together, as in Oliver et al., and draws the
    dropout masks of the clean one: with other batch statistics or masks the divergence had a slope
    at r = 0, and the power iteration would follow that noise and not the curvature. For the same
    reason all passes take the same view. Only the unlabelled images are perturbed and compared.

    Oliver et al.'s network augments inside (noise, flip, shift), so that there each pass, clean or
    perturbed, has draws of its own. Here images are augmented before, once a step.

    The entropy is that of the clean predictions on the unlabelled images, and its weight does not
    ramp up. (Oliver et al. take it of the perturbed ones, and the divergence the other way round,
    from the perturbed prediction to the clean; to second order in r both divergences are the same.)

    Args:
        config: of kind "vat". In Oliver et al. the weight of the divergence is 0.3. `epsilon` is
            the L2 norm of the perturbation of one image, on the scale of the normalized input; for
            `xi` and `power_iterations` see `virtual_adversarial_direction`.

    Examples:
        >>> from core.semi_supervised import VAT, SemiSupervisedConfig
        >>> config = SemiSupervisedConfig("vat", labelled=40)
        >>> VAT(config).views
        1
    """

    views = 1

    def __init__(self, config: SemiSupervisedConfig) -> None:
        self._config = config

    def step(
        self, model: nn.Module, optimizer: Optimizer, batch: SemiBatch, *, generator: Generator
    ) -> SemiStep:
        """See `SemiSupervisedMethod`. Draws where the power iteration starts."""
        x, y = batch.labelled
        (unlabelled,) = batch.views
        n = len(x)
        optimizer.zero_grad()
        start = torch.randn(
            unlabelled.shape, generator=generator, device=generator.device, dtype=unlabelled.dtype
        ).to(unlabelled.device)
        module = unwrap(model)
        replay, plain = Replay([x], module), with_logits(module, logits_of(model))

        def perturbed(network: nn.Module, r: Tensor) -> Tensor:
            with replay(), statistics_held(model):
                output: Tensor = network(torch.cat([x, unlabelled + r]))
            return output[n:]

        # All passes by the same kernels, as others draw other masks from the same stream, and by
        # such as can be differentiated twice.
        with kernels_for("double_backward", plain):
            logits = model(torch.cat([x, unlabelled]))
            direction = virtual_adversarial_direction(
                lambda r: kl_divergence(logits[n:], perturbed(plain, r)).sum(),
                start,
                xi=self._config.xi,
                power_iterations=self._config.power_iterations,
            )
            moved = perturbed(model, self._config.epsilon * direction)
        loss = soft_cross_entropy(logits[:n], y)
        weight = self._config.weight_at(batch.progress)
        loss = loss + weight * kl_divergence(logits[n:], moved).mean()
        if self._config.entropy > 0:
            loss = loss + self._config.entropy * mean_entropy(logits[n:])
        descend(optimizer, loss)
        passes = 2 + self._config.power_iterations
        return SemiStep(loss=loss.detach(), samples=passes * (n + len(unlabelled)))


def virtual_adversarial_direction(
    divergence: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    xi: float = 0.0,
    power_iterations: int = 1,
) -> Tensor:
    """Returns where each prediction changes fastest: power iteration on the divergence's Hessian.

    The divergence has its minimum, 0, at r = 0, so its gradient at ξ·d is ξ·H·d to first order
    (Miyato et al. 2018, section 3.3). Published code takes that difference with ξ = 1e-6. In
    float32 the probe is then below the last digit of most pixels: on small networks the directions
    found had a mean cosine between −0.2 and 0.3 with the true H·d, and where predictions were
    certain ξ = 0.01 fell to 0.8 as well. Hence ξ = 0 as the default: H·d itself, by differentiating
    the gradient once more; the cosine is 1 to six digits. It costs three backward passes for one.

    Args:
        divergence: of perturbations r, shaped like `start`, the sum over the samples. Scalar,
            differentiable, twice with ξ = 0.
        start: [U, ...], floating; where the iteration starts, of any norm above 0.
        xi: L2 norm of each sample's probe; 0: the limit.
        power_iterations: at least 1.

    Returns:
        [U, ...], of L2 norm 1 for each sample; 0 for one whose divergence is flat.
    """
    direction = _unit(start)
    for _ in range(power_iterations):
        r = (xi * direction).requires_grad_()
        value = divergence(r)
        with outside_autocast(r.device.type):
            (slope,) = torch.autograd.grad(value, r, create_graph=xi == 0)
            if xi == 0:
                (slope,) = torch.autograd.grad(slope, r, direction)
        direction = _unit(slope)
    return direction


def kl_divergence(logits: Tensor, perturbed: Tensor) -> Tensor:
    """Returns KL(p ‖ q), [U], p of `logits` and q of `perturbed`, both [U, C].

    Differentiable in `perturbed` alone.
    """
    log_p, log_q = logits.detach().log_softmax(dim=1), perturbed.log_softmax(dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def mean_entropy(logits: Tensor) -> Tensor:
    """Returns the entropy of predictions [U, C], in nats, the mean over the samples."""
    log_p = logits.log_softmax(dim=1)
    return -(log_p.exp() * log_p).sum(dim=1).mean()


def _unit(d: Tensor) -> Tensor:
    """Returns each sample over its L2 norm; over its largest entry first: 1e-30 squares to 0."""
    rows = d.flatten(1)
    tiny = torch.finfo(d.dtype).tiny
    rows = rows / rows.abs().amax(dim=1, keepdim=True).clamp_min(tiny)
    rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(tiny)
    return rows.view_as(d)

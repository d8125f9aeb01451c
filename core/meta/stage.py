"""This module is one meta stage (Algorithm 1, lines 2 to 6): its draws and its slope."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from core.meta.engines.once import other_parameters
from core.meta.gradient import Engine, meta_gradient, moved_parameters
from core.meta.inner_step import LearningRate, check_descends, current_rates
from core.meta.reading import DEFAULT, Reading, check_reading
from core.meta.validation_gradient import ValidationGradient
from core.mixing.batch import Batch, Loss, check_lam, check_partner, draw_beta, draw_partners
from core.mixing.kinds import INPUT, Mixing
from core.mixing.pairing import Pairing
from core.user_model.precision import loss_scale
from core.user_model.ranks import ALONE, Ranks
from core.user_model.wrapped_models import ranks_of, unwrap

_LESS = 32.0
"""A loss scale at which a hypergradient overflows is divided by this, and the stage taken anew."""

_NOT_FINITE = (
    "a hypergradient was not finite, so λ was not moved in that step; look for NaN in the "
    "meta-validation batch, or lower the learning rate"
)


@dataclass(frozen=True)
class Slope:
    """This is what a meta stage found.

    Attributes:
        moving: [B]; what moves λ: permuted in a placebo, 0 where any of it is not finite.
        hypergradient: [B]; d(meta loss)/d(lam_i) as it is (Eq. 9).
        meta_loss: scalar; validation loss after the virtual step (Eq. 8).
        samples: of the virtual and the validation batch, each once, or once for each loss scale
            that was tried.
    """

    moving: Tensor
    hypergradient: Tensor
    meta_loss: Tensor
    samples: int


@dataclass(frozen=True)
class MetaOptions:
    """These options say how a meta stage learns.

    Attributes:
        reading: what the paper leaves open; see `Reading`.
        engine: see `hypergradient`.
        mixing: where the pairs are blended; see `learn_interpolation`.
        last_blocks: the hypergradient goes through the last so many blocks alone; None: all.
        validation_gradient: keeps the validation gradient for several stages.
        validation_loss: of the validation batch; None: that of the step.
        permute: the placebo: hypergradients are permuted within the batch before they move λ.
    """

    reading: Reading = DEFAULT
    engine: Engine = "auto"
    mixing: Mixing = INPUT
    last_blocks: int | None = None
    validation_gradient: ValidationGradient | None = None
    permute: bool = False
    validation_loss: Loss | None = None

    def __post_init__(self) -> None:
        check_reading(self.reading)
        if not isinstance(self.validation_gradient, ValidationGradient | None):
            raise ValueError(
                "validation_gradient must be a core.ValidationGradient, such as "
                f"core.ValidationGradient(4), got {self.validation_gradient!r}"
            )

    def drawn(
        self,
        x: Tensor,
        pairing: Pairing,
        generator: torch.Generator | None,
        lam: Tensor | None = None,
        partner: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, MetaOptions]:
        """Draws λ0, the pairs, and what the mixing draws, from the stream in this order.

        Args:
            x: [B, ...], floating.
            lam, partner: [B], instead of a draw.

        Returns:
            λ0 [B], folded, in float32 (float64 of float64 inputs); partners [B]; these options with
            the mixing's draws fixed.
        """
        n, dtype = x.shape[0], torch.promote_types(x.dtype, torch.float32)
        if lam is None:
            alpha = self.reading.init_alpha
            lam = draw_beta(n, alpha, generator=generator, device=x.device, dtype=dtype)
        else:
            check_lam(lam, n)
        lam = pairing.fold(lam).detach().to(dtype)
        if partner is None:
            partner = pairing.partners(n, generator=generator, device=x.device)
        else:
            check_partner(partner, n)
        return lam, partner, replace(self, mixing=self.mixing.draw(x, generator))

    def slope(
        self,
        model: nn.Module,
        batch: Batch,
        val_batch: Batch,
        lam: Tensor,
        partner: Tensor,
        *,
        optimizer: torch.optim.Optimizer | None,
        lr: LearningRate | None = None,
        loss: Loss,
        generator: torch.Generator | None,
        scale: float | None = None,
    ) -> Slope:
        """Takes the hypergradient at `lam` (lines 4 to 6) and counts the stage.

        Arguments as in `learn_interpolation`; a placebo draws its permutation from `generator`.
        """
        if self.reading.inner_step == "gradient_descent":
            lr, inner = _rates(model, optimizer, lr), None
        elif optimizer is None:
            raise ValueError('Reading(inner_step="optimizer") needs `optimizer`')
        else:
            inner = optimizer
        scale = loss_scale() if scale is None else scale
        module, earlier, averaged = unwrap(model), None, None
        names = moved_parameters(module, self.last_blocks)
        if self.validation_gradient is not None:
            self.validation_gradient.follow(module)
            earlier = self.validation_gradient.last(names, batch[0].device)
            if self.validation_gradient.average_over > 1:
                averaged = partial(self.validation_gradient.averaged, names=names)
        stage = partial(
            meta_gradient,
            model,
            batch,
            val_batch,
            lam,
            partner,
            lr=lr,
            engine=self.engine,
            optimizer=inner,
            loss=loss,
            mixing=self.mixing,
            last_blocks=self.last_blocks,
            validation_gradient=earlier,
            validation_loss=self.validation_loss,
            averaged=averaged,
            others=other_parameters(model, optimizer),
        )
        meta, stages = stage(scale=scale), 1
        # A second derivative overflows before the real step does, by which the scale is chosen.
        while scale > 1 and _overflows(meta.hypergradient, ranks_of(model)):
            scale = max(scale / _LESS, 1.0)
            meta, stages = stage(scale=scale), stages + 1
        moving = meta.hypergradient
        if moving.device.type != "cpu" and self.validation_gradient is None:
            # Asking would make every step wait for the device; `hypergradient` tells.
            moving = torch.where(moving.isfinite().all(), moving, 0.0)
        # Of several ranks that keep a v all must count the same stages.
        elif _overflows(moving, ALONE if self.validation_gradient is None else ranks_of(model)):
            # A NaN λ would make the real batch NaN, and with it every weight.
            moving = torch.zeros_like(moving)
            warnings.warn(_NOT_FINITE, RuntimeWarning, stacklevel=4)
        elif self.validation_gradient is not None:
            self.validation_gradient.count(meta.validation, names)
        n = batch[0].shape[0]
        if self.permute:
            moving = moving[draw_partners(n, generator=generator, device=batch[0].device)]
        samples = n + (val_batch[0].shape[0] if earlier is None else 0)
        return Slope(moving, meta.hypergradient, meta.meta_loss, stages * samples)


def _overflows(hypergradient: Tensor, ranks: Ranks) -> bool:
    """Says whether it is not finite on any of the ranks."""
    return bool(ranks.largest((~hypergradient.isfinite().all()).to(torch.int32)))


def _rates(
    model: nn.Module, optimizer: torch.optim.Optimizer | None, lr: LearningRate | None
) -> LearningRate:
    """Returns the rates of a plain inner step: `lr` if given, else the optimizer's present ones."""
    if lr is not None:
        if optimizer is not None:
            check_descends(optimizer)
        return lr
    if optimizer is None:
        raise ValueError("give the virtual step its learning rate by `optimizer` or `lr`")
    return current_rates(optimizer, dict(unwrap(model).named_parameters()))

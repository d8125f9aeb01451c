"""Interpolation policies: each gives every sample of a batch its partner and its λ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from core.meta.gradient import Engine
from core.meta.reading import DEFAULT, Reading
from core.meta.validation_gradient import ValidationGradient
from core.metamixup import learn_interpolation
from core.mixing.batch import Batch, Loss, check_alpha, check_batch, draw_beta, soft_cross_entropy
from core.mixing.interpolation import Interpolation
from core.mixing.kinds import INPUT, Mixing
from core.mixing.pairing import ANY, Pairing


class Policy(Protocol):
    """What a policy sees and gives.

    It sees the model and the optimizer as they stand before the step, the batch, a meta-validation
    batch and a random stream; it changes none of them but the stream, and gives an `Interpolation`.
    """

    @property
    def needs_meta_validation(self) -> bool:
        """Whether `val_batch` is read. If not, it may be None."""

    @property
    def scores(self) -> Tensor | None:
        """[N], a score for each training sample, low where learning wants little of it; or None,
        as most policies keep none. See `PersistentScores` and `lowest_scores`."""

    def __call__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: Batch,
        val_batch: Batch | None = None,
        *,
        generator: torch.Generator | None = None,
        loss: Loss = soft_cross_entropy,
        indices: Tensor | None = None,
        pairing: Pairing = ANY,
    ) -> Interpolation:
        """The interpolation of this batch. Shapes as in `learn_interpolation`.

        `indices` [B], int64, are the positions of the samples in the training set. They are read by
        policies that keep something for each sample, which refuse None, and by no other. `pairing`
        says who may be paired with whom; a policy that does not mix has no use for it.
        """

    def state_dict(self) -> dict[str, Any]:
        """What it carries from step to step, so that a resumed training gives the same numbers."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""


class Stateless:
    """Of policies that carry nothing from step to step."""

    scores = None

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes nothing."""


@dataclass(frozen=True)
class NoMix(Stateless):
    """Training without MixUp: λ = 1, every sample its own partner. Draws nothing."""

    needs_meta_validation = False

    def __call__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: Batch,
        val_batch: Batch | None = None,
        *,
        generator: torch.Generator | None = None,
        loss: Loss = soft_cross_entropy,
        indices: Tensor | None = None,
        pairing: Pairing = ANY,
    ) -> Interpolation:
        n, device = _size(batch)
        lam = torch.ones(n, device=device, dtype=_lam_dtype(batch))
        return Interpolation(lam, torch.arange(n, device=device), lam)


@dataclass(frozen=True)
class Beta(Stateless):
    """λ ~ Beta(alpha, alpha), of the batch as MixUp does (Zhang et al. 2018) or of each sample.

    Attributes:
        alpha: positive; 1 is the uniform distribution, towards 0 the samples stay unmixed.
        per_sample: draw λ for each sample, as Eq. 4 writes it.
    """

    alpha: float = 1.0
    per_sample: bool = False
    needs_meta_validation = False

    def __post_init__(self) -> None:
        check_alpha(self.alpha)

    def __call__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: Batch,
        val_batch: Batch | None = None,
        *,
        generator: torch.Generator | None = None,
        loss: Loss = soft_cross_entropy,
        indices: Tensor | None = None,
        pairing: Pairing = ANY,
    ) -> Interpolation:
        n, device = _size(batch)
        draws = n if self.per_sample else 1
        lam = pairing.fold(
            draw_beta(
                draws, self.alpha, generator=generator, device=device, dtype=_lam_dtype(batch)
            )
        ).expand(n)
        return Interpolation(lam, pairing.partners(n, generator=generator, device=device), lam)


@dataclass(frozen=True)
class Fixed(Stateless):
    """The same λ for every pair (Table II, lower half)."""

    lam: float
    needs_meta_validation = False

    def __post_init__(self) -> None:
        if not 0 <= self.lam <= 1:
            raise ValueError(f"fixed lam must lie in [0, 1], got {self.lam}")

    def __call__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: Batch,
        val_batch: Batch | None = None,
        *,
        generator: torch.Generator | None = None,
        loss: Loss = soft_cross_entropy,
        indices: Tensor | None = None,
        pairing: Pairing = ANY,
    ) -> Interpolation:
        n, device = _size(batch)
        lam = pairing.fold(torch.full((n,), self.lam, device=device, dtype=_lam_dtype(batch)))
        return Interpolation(lam, pairing.partners(n, generator=generator, device=device), lam)


@dataclass(frozen=True)
class Frozen(Stateless):
    """λ of each sample drawn from a distribution that stands: the control of a learned policy.

    With the distribution that learning ended with, this is all of it but the choice which sample
    gets which λ, and when. A draw is the quantile function at a uniform level (inverse transform).

    Attributes:
        quantiles: of the distribution, at equally spaced levels from 0 to 1; linear in between.
            `TrainingResult.lam_quantiles` are such.
    """

    quantiles: tuple[float, ...]
    needs_meta_validation = False

    def __post_init__(self) -> None:
        check_quantiles(self.quantiles)

    def __call__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: Batch,
        val_batch: Batch | None = None,
        *,
        generator: torch.Generator | None = None,
        loss: Loss = soft_cross_entropy,
        indices: Tensor | None = None,
        pairing: Pairing = ANY,
    ) -> Interpolation:
        n, device = _size(batch)
        drawn = draw_quantiles(
            n, self.quantiles, generator=generator, device=device, dtype=_lam_dtype(batch)
        )
        lam = pairing.fold(drawn)
        return Interpolation(lam, pairing.partners(n, generator=generator, device=device), lam)


def draw_quantiles(
    n: int,
    quantiles: tuple[float, ...],
    *,
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """[n] draws from the distribution with these quantiles; see `Frozen`.

    In double precision and where the stream is: the same λ on every device.
    """
    source = generator.device if generator is not None else torch.device("cpu")
    levels = torch.rand(n, generator=generator, device=source, dtype=torch.float64)
    values = torch.tensor(quantiles, dtype=torch.float64, device=source)
    place = levels * (len(values) - 1)
    below = place.long().clamp(max=len(values) - 2)
    drawn = torch.lerp(values[below], values[below + 1], place - below)
    return drawn.to(device=device, dtype=dtype)


def check_quantiles(quantiles: tuple[float, ...]) -> None:
    """Raises ValueError unless they are two or more, within [0, 1] and never falling."""
    if len(quantiles) < 2:
        raise ValueError(f"quantiles must be 2 or more, from level 0 to 1; got {len(quantiles)}")
    for at, value in enumerate(quantiles):
        if not 0 <= value <= 1:  # NaN is caught too
            raise ValueError(f"quantiles of lam must lie in [0, 1], got {value} at index {at}")
        if at and value < quantiles[at - 1]:
            raise ValueError(
                f"quantiles must not fall, got {value} after {quantiles[at - 1]} at index {at}"
            )


@dataclass(frozen=True)
class Learned:
    """MetaMixUp: λ learned by hypergradient on the meta-validation batch (Algorithm 1).

    Attributes:
        reading: what the paper leaves open; see `Reading`.
        engine: see `hypergradient`.
        placebo: the control. Hypergradients are permuted within the batch before they move λ, so
            the distribution of λ moves as in learning but no sample gets the λ meant for it.
        mixing: where the pairs are blended; see `learn_interpolation`.
        last_blocks: the hypergradient goes through the last so many blocks alone; None: all.
        validation_gradient: keeps the validation gradient for several steps; its state is the
            policy's, and it belongs to one training.
    """

    reading: Reading = DEFAULT
    engine: Engine = "auto"
    placebo: bool = False
    mixing: Mixing = INPUT
    last_blocks: int | None = None
    validation_gradient: ValidationGradient | None = None
    needs_meta_validation = True
    scores = None

    def __call__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: Batch,
        val_batch: Batch | None = None,
        *,
        generator: torch.Generator | None = None,
        loss: Loss = soft_cross_entropy,
        indices: Tensor | None = None,
        pairing: Pairing = ANY,
    ) -> Interpolation:
        if val_batch is None:
            raise ValueError("a learned policy needs a meta-validation batch, got None")
        return learn_interpolation(
            model,
            batch,
            val_batch,
            optimizer=optimizer,
            reading=self.reading,
            engine=self.engine,
            pairing=pairing,
            permute=self.placebo,
            mixing=self.mixing,
            last_blocks=self.last_blocks,
            validation_gradient=self.validation_gradient,
            loss=loss,
            generator=generator,
        )

    def state_dict(self) -> dict[str, Any]:
        """That of the kept validation gradient."""
        return {} if self.validation_gradient is None else self.validation_gradient.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        if self.validation_gradient is not None:
            self.validation_gradient.load_state_dict(state)


def _size(batch: Batch) -> tuple[int, torch.device]:
    check_batch(batch, "training")
    return batch[0].shape[0], batch[0].device


def _lam_dtype(batch: Batch) -> torch.dtype:
    x: Tensor = batch[0]
    return torch.promote_types(x.dtype, torch.float32)

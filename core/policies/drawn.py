"""Policies that draw λ and learn nothing. Each is its own configuration: it has no other state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import core.mixing
from core.lazy import torch
from core.mixing.area import AreaMixing
from core.mixing.batch import check_alpha, check_batch, draw_beta
from core.policies.config import PolicyConfig, register_policy
from core.policies.protocol import Policy, StepInput
from core.random_streams import stream_device

if TYPE_CHECKING:
    from torch import Tensor

    from core.mixing import Interpolation
    from core.models import ImageClassifier


class Drawn(Policy, PolicyConfig):
    """A policy and its configuration in one, for it carries nothing from step to step."""

    def interpolate(self, step: StepInput) -> Interpolation:
        """See `Policy`. λ is drawn first, then the partners."""
        check_batch(step.batch, "training")
        x, generator = step.batch[0], step.generator
        dtype = torch.promote_types(x.dtype, torch.float32)
        lam = step.pairing.fold(self.draw(len(x), generator, x.device, dtype)).expand(len(x))
        partner = step.pairing.partners(len(x), generator=generator, device=x.device)
        return core.mixing.Interpolation(lam, partner, lam)

    @abstractmethod
    def draw(
        self, n: int, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        """Returns λ of each of n samples, [n], or of all of them, [1]."""

    def build(self, network: Callable[[], ImageClassifier] | None = None) -> Policy:
        """Returns itself."""
        return self


@register_policy
@dataclass(frozen=True)
class NoMix(Drawn):
    """Training without MixUp: λ = 1, every sample its own partner. Draws nothing.

    Examples:
        >>> import core
        >>> model, optimizer, batch, _ = core.testing.toy_problem()
        >>> core.NoMix()(model, optimizer, batch).lam.tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """

    kinds: ClassVar = {"none": {}}

    def interpolate(self, step: StepInput) -> Interpolation:
        check_batch(step.batch, "training")
        x = step.batch[0]
        lam = self.draw(len(x), None, x.device, torch.promote_types(x.dtype, torch.float32))
        return core.mixing.Interpolation(lam, torch.arange(len(x), device=x.device), lam)

    def draw(
        self, n: int, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        """Returns ones, [n]."""
        return torch.ones(n, device=device, dtype=dtype)


@register_policy
@dataclass(frozen=True)
class Beta(Drawn):
    """λ ~ Beta(alpha, alpha), of the batch as MixUp does (Zhang et al. 2018) or of each sample.

    Attributes:
        alpha: 1 is the uniform distribution; towards 0 the samples stay unmixed, and at 0 they do.
        per_sample: draw λ for each sample, as Eq. 4 writes it.

    Examples:
        >>> import core
        >>> model, optimizer, batch, _ = core.testing.toy_problem()
        >>> core.Beta(0.2, per_sample=True)(model, optimizer, batch).lam.shape
        torch.Size([8])
    """

    alpha: float = 1.0
    per_sample: bool = False
    kinds: ClassVar = {"beta": {}}

    def __post_init__(self) -> None:
        if self.alpha != 0:
            check_alpha(self.alpha)

    def draw(
        self, n: int, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        """See `Drawn`; at α = 0 it draws nothing."""
        count = n if self.per_sample else 1
        if self.alpha == 0:
            return torch.ones(count, device=device, dtype=dtype)
        return draw_beta(count, self.alpha, generator=generator, device=device, dtype=dtype)


@register_policy
@dataclass(frozen=True)
class CutMix(Beta):
    """CutMix (Yun et al., ICCV 2019): a box of the partner is pasted into each sample.

    λ ~ Beta(alpha, alpha) of the batch is the part of a sample that stays; boxes are those of
    `AreaMixing`, whole inside the image and of area 1 − λ exactly, where the source cuts them off
    at the border. After λ and the partners it draws the boxes, and then whether the batch is mixed.

    Attributes:
        alpha: as in `Beta`; the source takes 1.
        probability: that a batch is mixed, in [0, 1]; the source takes 0.5 on CIFAR, 1 on ImageNet.

    Examples:
        >>> import torch, core
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> batch = torch.randn(8, 3, 4, 4), torch.arange(8) % 3
        >>> interpolation = core.CutMix()(model, optimizer, batch)
        >>> bool(((0 <= interpolation.lam) & (interpolation.lam <= 1)).all())
        True
    """

    probability: float = 0.5
    kinds: ClassVar = {"cutmix": {}}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability of CutMix must lie in [0, 1], got {self.probability}")

    @property
    def blends_inputs(self) -> bool:
        return False

    def interpolate(self, step: StepInput) -> Interpolation:
        given, generator = super().interpolate(step), step.generator
        mixing = AreaMixing().draw(step.batch[0], generator)
        chance = torch.rand((), generator=generator, device=stream_device(generator))
        if float(chance) >= self.probability:
            lam = torch.ones_like(given.lam)
            return replace(given, lam=lam, lam_init=lam)
        return replace(given, mixing=mixing)


@register_policy
@dataclass(frozen=True)
class Fixed(Drawn):
    """The same λ for every pair (Table II, lower half).

    Examples:
        >>> import core
        >>> model, optimizer, batch, _ = core.testing.toy_problem()
        >>> core.Fixed(0.25)(model, optimizer, batch).lam[:2].tolist()
        [0.25, 0.25]
    """

    lam: float
    kinds: ClassVar = {"fixed": {}}

    def __post_init__(self) -> None:
        if not 0 <= self.lam <= 1:
            raise ValueError(f"fixed lam must lie in [0, 1], got {self.lam}")

    def draw(
        self, n: int, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        return torch.full((n,), self.lam, device=device, dtype=dtype)


@register_policy
@dataclass(frozen=True)
class Frozen(Drawn):
    """λ of each sample drawn from a distribution that stands: the control of a learned policy.

    With the distribution that learning ended with, this is all of it but the choice which sample
    gets which λ, and when. A draw is the quantile function at a uniform level (inverse transform).

    Attributes:
        quantiles: of the distribution, at equally spaced levels from 0 to 1; linear in between.
            `TrainingResult.lam_quantiles` are such. `FrozenSchedule` has one for each part of the
            training.

    Examples:
        >>> import core
        >>> model, optimizer, batch, _ = core.testing.toy_problem()
        >>> interpolation = core.Frozen((0.0, 0.5, 1.0))(model, optimizer, batch)
        >>> bool(((0 <= interpolation.lam) & (interpolation.lam <= 1)).all())
        True
    """

    quantiles: tuple[float, ...]
    kinds: ClassVar = {"frozen": {}}
    needs_meta_labels = True

    def __post_init__(self) -> None:
        check_quantiles(self.quantiles)

    def draw(
        self, n: int, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        return draw_quantiles(n, self.quantiles, generator, device, dtype)


def draw_quantiles(
    n: int,
    quantiles: tuple[float, ...],
    generator: torch.Generator | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Returns [n] draws of dtype from the distribution with these quantiles.

    In double precision and where the stream is: the same λ on every device.
    """
    source = stream_device(generator)
    levels = torch.rand(n, generator=generator, device=source, dtype=torch.float64)
    values = torch.as_tensor(quantiles, dtype=torch.float64, device=source)
    place = levels * (len(values) - 1)
    below = place.long().clamp(max=len(values) - 2)
    drawn = torch.lerp(values[below], values[below + 1], place - below)
    return drawn.to(dtype).to(device)


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

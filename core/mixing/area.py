"""This module mixes by area (CutMix, Yun et al., ICCV 2019), with λ that can be learned.

CutMix pastes a box of whole pixels, so the image is constant in λ almost everywhere. Here a pixel
that the border of the box crosses is blended by the share of it that the box covers: the image
moves continuously with λ, and the box covers 1 − λ of it exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from core.lazy import torch
from core.mixing.batch import Call
from core.random_streams import stream_device

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class AreaMixing:
    """A box of area 1 − lam_i comes from the partner, the rest of the sample is its own.

    The box has the proportions of the image and lies inside it, at a place drawn uniformly among
    those where it fits. The draw is a fraction of the free room along each axis, so the box grows
    and shrinks about a fixed point as λ moves.

    Attributes:
        position: [B, d], in [0, 1], for d spatial dimensions: 0 puts the box at the start of the
            axis, 1 at its end. None is drawn for each batch, by `torch.rand(B, d)` on the
            generator's own device.

    Examples:
        >>> import torch, core
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> batch = torch.randn(8, 3, 4, 4), torch.arange(8) % 3
        >>> policy = core.Learned(mixing=core.AreaMixing())
        >>> policy(model, optimizer, batch, batch).lam.shape
        torch.Size([8])
    """

    position: Tensor | None = field(default=None, compare=False)
    hooks = False

    def draw(self, x: Tensor, generator: torch.Generator | None) -> AreaMixing:
        """Returns a copy with `position` drawn for this batch, or itself where it is given.

        Raises:
            ValueError: x has no spatial dimension, or a box that is given would leave the image.
        """
        if self.position is not None:
            if not bool(((self.position >= 0) & (self.position <= 1)).all()):
                raise ValueError(
                    "position must lie in [0, 1], from the start of the free room to its end; got "
                    f"values from {float(self.position.min())} to {float(self.position.max())}"
                )
            return self
        _check_spatial(x)
        shape = x.shape[0], x.dim() - 2
        position = torch.rand(shape, generator=generator, device=stream_device(generator))
        return replace(self, position=position.to(x.device))

    def logits(
        self, call: Call, model: nn.Module, x: Tensor, lam: Tensor, partner: Tensor
    ) -> Tensor:
        """Runs the network on the mixed inputs; see `Mixing`.

        Raises:
            ValueError: `position` is not drawn, or as `mix_areas`.
        """
        if self.position is None:
            raise ValueError("AreaMixing has no boxes yet: take those of `draw(x, generator)`")
        return call(mix_areas(x, lam, partner, self.position))


def mix_areas(x: Tensor, lam: Tensor, partner: Tensor, position: Tensor) -> Tensor:
    """Returns x_partner_i inside a box of area `1 − lam_i`, x_i around it; differentiable in both.

    Args:
        x: [B, channels, ...], floating, with at least one spatial dimension.
        lam: [B], floating, in [0, 1].
        partner: [B], int64, indices into the batch.
        position: [B, d], floating, in [0, 1]; see `AreaMixing`.

    Returns:
        [B, channels, ...], the dtype and memory format of x.

    Raises:
        ValueError: x has no spatial dimension, or position is not [B, d].
    """
    _check_spatial(x)
    expected = [x.shape[0], x.dim() - 2]
    if not position.is_floating_point() or list(position.shape) != expected:
        raise ValueError(
            f"position must be floating with shape {expected}, one fraction for each sample and "
            f"spatial dimension, got {position.dtype} {list(position.shape)}"
        )
    dtype = torch.promote_types(torch.promote_types(lam.dtype, x.dtype), torch.float32)
    share = area_mask(lam.to(dtype), position.to(dtype), x.shape[2:]).to(x.dtype).unsqueeze(1)
    return share * x + (1 - share) * x[partner]


def area_mask(lam: Tensor, position: Tensor, size: Sequence[int]) -> Tensor:
    """Returns the share of each pixel that stays the sample's own; its mean over pixels is λ.

    Differentiable in lam on all of [0, 1]. Where a border of the box meets one of a pixel the mask
    has a kink; the derivative there is the one towards larger λ (at λ = 1, towards smaller).

    Args:
        lam: [B], floating.
        position: [B, d], lam's dtype.
        size: pixels of each of the d axes.

    Returns:
        [B, *size], in [0, 1], lam's dtype.
    """
    area = 1 - lam
    # d(side)/d(area) is infinite at 0. A box below the dtype's resolution takes the coverage of the
    # smallest one in proportion: the value is 0 at area 0, the derivative its limit, the sum exact.
    # By `where`: at the bound itself releases of torch differ in the derivative of a clamp.
    eps = torch.finfo(lam.dtype).eps
    whole = torch.where(area < eps, eps, area)
    side = whole.pow(1 / len(size))
    box = area / whole
    for axis, pixels in enumerate(size):
        covered = _coverage(side, position[:, axis], pixels)
        box = box.unsqueeze(-1) * covered.view(-1, *([1] * axis), pixels)
    return 1 - box


def _coverage(side: Tensor, position: Tensor, pixels: int) -> Tensor:
    """Returns the share [B, pixels] of each pixel of an axis under a box of relative `side` [B]."""
    width = (side * pixels).unsqueeze(1)
    start = (position * (1 - side) * pixels).unsqueeze(1)
    edge = torch.arange(pixels, device=side.device, dtype=side.dtype)
    overlap = torch.minimum(start + width - edge, edge + 1 - start)
    # A box within one pixel covers its width, which a difference of its borders would round off.
    # At a tie, and at 0 and 1 below, the derivative is that of the shrinking box.
    overlap = torch.where(overlap < width, overlap, width)
    overlap = overlap.relu()
    return torch.where(overlap > 1, 1.0, overlap)


def _check_spatial(x: Tensor) -> None:
    if x.dim() < 3:
        raise ValueError(
            "AreaMixing needs inputs [B, channels, ...] with at least one spatial dimension, got "
            f"{list(x.shape)}; use InputMixing or HiddenMixing for inputs without one"
        )

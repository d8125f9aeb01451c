"""Augmentation and normalisation, a whole batch at a time on the device of the batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from core.data.images import ImageSet

__all__ = ["Transform"]

_FIT_LIMIT = 100_000
_FIT_BATCH = 256


@lru_cache(maxsize=64)
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    # Kept between batches: making them anew would make a GPU wait for the copy at every step.
    shape = (1, len(mean), 1, 1)
    return (
        (255 * torch.tensor(mean, dtype=torch.float64)).float().view(shape).to(device),
        (255 * torch.tensor(std, dtype=torch.float64)).float().view(shape).to(device),
    )


@dataclass(frozen=True)
class Transform:
    """uint8 images to normalised floats, with random flips and translations for training.

    mean and std are those of pixel/255, one for each channel. flip mirrors each image left to right
    with probability 1/2. translate t shifts each image by whole pixels, uniform in [-t, t] along
    each axis; what enters is the mean (zero after normalisation).

    Raises ValueError when a size does not fit.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool = False
    translate: int = 0

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(
                f"mean and std need one value a channel, got {len(self.mean)} and {len(self.std)}"
            )
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std must be positive, got {self.std}")
        if self.translate < 0:
            raise ValueError(f"translate must be >= 0 pixels, got {self.translate}")

    @classmethod
    def fit(cls, images: ImageSet, *, flip: bool = False, translate: int = 0) -> Transform:
        """Take the statistics of images: exact integer sums over every pixel of each channel.

        Of a set of more than 100,000 images, which only streamed ones are, 100,000 evenly spaced
        ones are read. A channel that is constant gets std 1, so that it becomes zero.
        """
        total = len(images)
        if total == 0:
            raise ValueError("cannot take statistics of an empty image set")
        count = min(total, _FIT_LIMIT)
        rows = torch.arange(count) * total // count
        pixels = 0
        sums: list[int] = []
        squares: list[int] = []
        for x, _ in images.batches(rows.split(_FIT_BATCH)):
            values = x.to(torch.int32)
            part = values.sum(dim=(0, 2, 3), dtype=torch.int64).tolist()
            part_squares = values.square().sum(dim=(0, 2, 3), dtype=torch.int64).tolist()
            sums = [a + b for a, b in zip(sums or [0] * len(part), part, strict=True)]
            squares = [a + b for a, b in zip(squares or [0] * len(part), part_squares, strict=True)]
            pixels += x[:, 0].numel()
        mean = tuple(s / pixels / 255 for s in sums)
        # n * sum(x^2) - sum(x)^2 in whole numbers loses nothing to cancellation.
        variance = [
            (pixels * sq - s * s) / pixels**2 / 255**2 for s, sq in zip(sums, squares, strict=True)
        ]
        return cls(mean, tuple(v**0.5 if v > 0 else 1.0 for v in variance), flip, translate)

    def train(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Augment and normalise x uint8 [B, C, H, W]; returns float32 of the same shape.

        Numbers are drawn from generator on its own device, which may be another than x's, so that a
        CPU generator gives the same augmentation on every device.
        """
        normalised = self.evaluate(x)
        if not (self.flip or self.translate):
            return normalised
        batch, channels, height, width = x.shape
        t = self.translate
        if t >= min(height, width):
            raise ValueError(f"translate={t} would push images of {height}x{width} pixels out")
        rows = torch.arange(height, device=x.device).expand(batch, height) + t
        columns = torch.arange(width, device=x.device).expand(batch, width) + t
        if t:
            shifts = torch.randint(
                -t, t + 1, (2, batch, 1), generator=generator, device=generator.device
            ).to(x.device)
            rows, columns = rows - shifts[0], columns - shifts[1]
        stride = width + 2 * t
        if self.flip:
            mirror = torch.rand((batch, 1), generator=generator, device=generator.device) < 0.5
            columns = torch.where(mirror.to(x.device), stride - 1 - columns, columns)
        # One gather does the flip and both shifts, and is the same for every channel.
        source = (rows.unsqueeze(2) * stride + columns.unsqueeze(1)).view(batch, 1, -1)
        padded = pad(normalised, (t, t, t, t)).flatten(2)
        return padded.gather(2, source.expand(-1, channels, -1)).view(x.shape)

    def evaluate(self, x: Tensor) -> Tensor:
        """Normalise x uint8 [B, C, H, W] to float32: (x/255 - mean) / std."""
        if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[1] != len(self.mean):
            raise ValueError(
                f"expected uint8 [B, {len(self.mean)}, H, W], got {x.dtype} {tuple(x.shape)}"
            )
        mean, std = _constants(self.mean, self.std, x.device)
        # Strides of one-channel images are ambiguous, and convolutions choose their algorithm by
        # them: in canonical form the same pixels give the same bits, wherever they came from.
        canonical = x.to(torch.float32, memory_format=torch.contiguous_format)
        return canonical.sub_(mean).div_(std)

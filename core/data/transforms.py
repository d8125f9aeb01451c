"""This module augments and normalizes, a whole batch at a time on the device of the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from core.data.images import ImageSet, evenly_spaced
from core.data.names import NORMALISATIONS, PADDINGS, Normalisation, Padding
from core.data.whitening import Whitening
from core.random_streams import seeded

__all__ = ["Transform"]

Augmentation = Callable[[Tensor], Tensor]
"""The user's own, of a batch as the data set has it to one of the same dtype and shape."""

_FIT_LIMIT = 100_000


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
    """A transform makes normalized floats of uint8 images, flipped and moved at random to train.

    mean and std are those of pixel/255, one for each channel. whitening, where given, is applied
    after them. flip mirrors each image left to right with probability 1/2. translate t shifts each
    image by whole pixels, uniform in [-t, t] along each axis; what enters is zero, the mean after
    normalisation, or the image reflected at its border (padding "reflect", the border itself not
    repeated). noise is the standard deviation of Gaussian noise on every value of a training image,
    in units of the normalized image. augment is called on each training batch before all that.

    Raises ValueError when a size does not fit.

    Examples:
        >>> import torch
        >>> from core.data import Transform
        >>> black = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
        >>> Transform((0.5,), (0.25,)).evaluate(black).unique().tolist()
        [-2.0]
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool = False
    translate: int = 0
    padding: Padding = "zero"
    noise: float = 0.0
    whitening: Whitening | None = None
    augment: Augmentation | None = None

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(
                f"mean and std need one value a channel, got {len(self.mean)} and {len(self.std)}"
            )
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std must be positive, got {self.std}")
        if self.translate < 0:
            raise ValueError(f"translate must be >= 0 pixels, got {self.translate}")
        if self.padding not in PADDINGS:
            raise ValueError(f"padding must be {' or '.join(PADDINGS)}, got {self.padding!r}")
        if not 0 <= self.noise < float("inf"):
            raise ValueError(f"noise must be finite and at least 0, got {self.noise}")

    @classmethod
    def fit(
        cls,
        images: ImageSet,
        *,
        normalisation: Normalisation = "standard",
        flip: bool = False,
        translate: int = 0,
        padding: Padding = "zero",
        noise: float = 0.0,
    ) -> Transform:
        """Fits the normalisation to images; the other arguments are those of the class.

        "standard" takes their statistics: exact integer sums over every pixel of each channel. Of a
        set of more than 100,000 images, which only streamed ones are, 100,000 evenly spaced ones
        are read. A channel that is constant gets std 1, so that it becomes zero. "unit" maps pixels
        to [-1, 1], pixel/127.5 - 1, and reads one image, to count its channels. "gcn-zca" is
        `Whitening.fit`; there, too, "zero" padding stands for the mean image.

        Raises ValueError when there are no images, or too few or too large ones to whiten.
        """
        if len(images) == 0:
            raise ValueError("cannot take statistics of an empty image set")
        whitening = None
        if normalisation == "standard":
            mean, std = _statistics(images)
        else:
            x, _ = next(images.batches([torch.zeros(1, dtype=torch.int64)]))
            channels = x.shape[1]
            if normalisation == "unit":
                mean, std = (0.5,) * channels, (0.5,) * channels
            elif normalisation == "gcn-zca":
                whitening = Whitening.fit(images)
                mean, std = (0.0,) * channels, (1 / 255,) * channels  # pixels as they are
            else:
                raise ValueError(
                    f"normalisation must be {', '.join(NORMALISATIONS)}; got {normalisation!r}"
                )
        return cls(mean, std, flip, translate, padding, noise, whitening)

    def train(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Augments and normalizes x uint8 [B, C, H, W]; returns float32 of the same shape.

        Numbers are drawn from generator on its own device, which may be another than x's, so that a
        CPU generator gives the same augmentation on every device.
        """
        moved = self._moved(self.evaluate(self._augmented(x, generator)), generator)
        if not self.noise:
            return moved
        noise = torch.randn(x.shape, generator=generator, device=generator.device)
        return moved + self.noise * noise.to(x.device)

    def _augmented(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Returns what the user's augmentation makes of a copy of the batch, which it may write to:
        each view begins with the images as they are."""
        if self.augment is None:
            return x
        seed = torch.randint(2**62, (), generator=generator, device=generator.device)
        with seeded(int(seed), x.device):
            return self.augment(x.clone())

    def _moved(self, x: Tensor, generator: torch.Generator) -> Tensor:
        if not (self.flip or self.translate):
            return x
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
        mode = "reflect" if self.padding == "reflect" else "constant"
        padded = pad(x, (t, t, t, t), mode=mode).flatten(2)
        return padded.gather(2, source.expand(-1, channels, -1)).view(x.shape)

    def evaluate(self, x: Tensor) -> Tensor:
        """Normalizes x uint8 [B, C, H, W] to float32: (x/255 - mean) / std, then whitening."""
        if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[1] != len(self.mean):
            raise ValueError(
                f"expected uint8 [B, {len(self.mean)}, H, W], got {x.dtype} {tuple(x.shape)}"
            )
        mean, std = _constants(self.mean, self.std, x.device)
        # Strides of one-channel images are ambiguous, and convolutions choose their algorithm by
        # them: in canonical form the same pixels give the same bits, wherever they came from.
        canonical = x.to(torch.float32, memory_format=torch.contiguous_format)
        scaled = canonical.sub_(mean).div_(std)
        return scaled if self.whitening is None else self.whitening(scaled)


def _statistics(images: ImageSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each channel of one image or more."""
    pixels = 0
    sums: list[int] = []
    squares: list[int] = []
    for x in evenly_spaced(images, _FIT_LIMIT):
        values = x.to(torch.int32)
        part = values.sum(dim=(0, 2, 3), dtype=torch.int64).tolist()
        part_squares = values.square().sum(dim=(0, 2, 3), dtype=torch.int64).tolist()
        sums = [a + b for a, b in zip(sums or [0] * len(part), part, strict=True)]
        squares = [a + b for a, b in zip(squares or [0] * len(part), part_squares, strict=True)]
        pixels += x[:, 0].numel()
    # n * sum(x^2) - sum(x)^2 in whole numbers loses nothing to cancellation.
    variance = [
        (pixels * sq - s * s) / pixels**2 / 255**2 for s, sq in zip(sums, squares, strict=True)
    ]
    return (
        tuple(s / pixels / 255 for s in sums),
        tuple(v**0.5 if v > 0 else 1.0 for v in variance),
    )

"""This module normalizes contrast and whitens by ZCA, as Oliver et al. (2018) do for CIFAR-10.

Source: `gcn` and `get_zca_transformer` of brain-research/realistic-ssl-evaluation. D = C·H·W.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from core.data.images import ImageSet, evenly_spaced
from core.user_model.precision import outside_autocast, wide_dtype

__all__ = ["Whitening", "normalize_contrast"]

CONTRAST = 55.0
"""Euclidean norm of each image after global contrast normalisation."""

RIDGE = 0.1
"""Added to every variance before its root is taken, or directions that hardly vary would explode.
The source calls it `identity_scale`; its second guard, 1e-10, changes nothing beside this one and
is left out."""

_FIT_LIMIT = 50_000
_LARGEST = 3 * 64 * 64


def normalize_contrast(x: Tensor) -> Tensor:
    """Takes from each image x, floating [B, D], its own mean, and scales it to the norm `CONTRAST`.

    An image of one single value becomes zero.
    """
    centered = x - x.mean(dim=1, keepdim=True)
    norm = torch.linalg.vector_norm(centered, dim=1, keepdim=True)
    return centered * (CONTRAST / norm.clamp_min(1e-10))


@dataclass(frozen=True, eq=False)
class Whitening:
    """Whitening normalizes contrast, then takes (x − mean) · (Σ + `RIDGE` · I)^(−1/2) (ZCA).

    Attributes:
        mean: float32 [D], of the images it was fitted on, after contrast normalisation.
        matrix: float32 [D, D], symmetric, on the device of those images.

    Examples:
        >>> import numpy as np
        >>> from core.data import DeviceImages, Whitening
        >>> pixels = np.random.default_rng(0).integers(0, 256, (20, 1, 4, 4), np.uint8)
        >>> Whitening.fit(DeviceImages(pixels, np.arange(20) % 2)).matrix.shape
        torch.Size([16, 16])
    """

    mean: Tensor
    matrix: Tensor

    @classmethod
    def fit(cls, images: ImageSet) -> Whitening:
        """Takes mean and covariance of images, in float64, and the root by eigendecomposition.

        Of a set of more than 50,000 images that many evenly spaced ones are read, which is all of
        CIFAR-10, and takes a CPU core under a minute.

        Raises ValueError when there are less than two images, or D is above 64·64·3: a matrix
        [D, D] would not fit.
        """
        if len(images) < 2:
            raise ValueError(f"a covariance needs 2 images or more, got {len(images)}")
        count = min(len(images), _FIT_LIMIT)
        sums = products = torch.empty(0)
        for pixels in evenly_spaced(images, _FIT_LIMIT):
            wide = wide_dtype(pixels.device) == torch.float64
            x = normalize_contrast((pixels if wide else pixels.cpu()).flatten(1).double())
            if not len(sums):
                sums, products = _zeros(x)
            sums += x.sum(dim=0)
            products.addmm_(x.T, x)
        mean = sums / count
        covariance = (products - count * torch.outer(mean, mean)) / (count - 1)
        variances, directions = torch.linalg.eigh(covariance)
        matrix = directions * (variances.clamp_min(0) + RIDGE).rsqrt() @ directions.T
        return cls(mean.float(), matrix.float())

    def __call__(self, x: Tensor) -> Tensor:
        """Whitens x float32 [B, C, H, W], pixels 0 to 255; returns the same shape and dtype."""
        flat = x.flatten(1)
        if flat.shape[1] != len(self.mean):
            raise ValueError(
                f"fitted on images of {len(self.mean)} values, got {flat.shape[1]} "
                f"{tuple(x.shape[1:])}"
            )
        mean, matrix = self.mean.to(x.device), self.matrix.to(x.device)
        with outside_autocast(x.device.type):
            return ((normalize_contrast(flat) - mean) @ matrix).view(x.shape)


def _zeros(x: Tensor) -> tuple[Tensor, Tensor]:
    features = x.shape[1]
    if features > _LARGEST:
        raise ValueError(
            f"whitening images of {features} values needs a matrix of {features}² numbers, the "
            f"limit is {_LARGEST}²; choose a smaller image_size or another normalisation"
        )
    return x.new_zeros(features), x.new_zeros(features, features)

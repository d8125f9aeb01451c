"""This module normalizes features that are no images: tabular data, spectrograms, embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from core.data.images import ImageSet
from core.data.transforms import Transform

__all__ = ["FeatureTransform"]


@dataclass(frozen=True)
class FeatureTransform(Transform):
    """It brings floats [B, D, ...] to mean 0 and variance 1 along D, with noise in training."""

    @classmethod
    def fit_features(cls, items: ImageSet, noise: float = 0.0) -> FeatureTransform:
        """Takes the statistics of each of the D features or channels; a constant one gets std 1."""
        total, squares, count = torch.zeros(()), torch.zeros(()), 0
        for x, _ in items.batches(torch.arange(len(items)).split(1024)):
            values = x.cpu().double().transpose(0, 1).flatten(1)
            total, squares = total + values.sum(1), squares + values.square().sum(1)
            count += values.shape[1]
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0).sqrt()
        std[std <= 1e-7 * mean.abs()] = 1.0
        return cls(tuple(mean.tolist()), tuple(std.tolist()), noise=noise)

    def evaluate(self, x: Tensor) -> Tensor:
        """Normalizes x float [B, D, ...]."""
        shape = (1, len(self.mean)) + (1,) * (x.ndim - 2)
        mean, std = (
            torch.tensor(values, dtype=x.dtype, device=x.device).view(shape)
            for values in (self.mean, self.std)
        )
        return (x - mean) / std

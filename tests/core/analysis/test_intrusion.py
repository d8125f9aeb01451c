"""Distances against loops over all pairs of samples, and against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from core.analysis.intrusion import Intrusion, MixedPairs, distances_to_others, intrusion
from core.data import DeviceImages, Transform
from core.models import ImageClassifier

NORMALISE = Transform(mean=(0.25,), std=(0.5,), flip=True, translate=1)


class Pixels(ImageClassifier):
    """Features are the pixels themselves, behind a dropout that only training uses."""

    def __init__(self) -> None:
        super().__init__(1, 3, 2, 1, 1)
        self.drop = torch.nn.Dropout(0.5)
        self.classifier = torch.nn.Linear(4, 3)

    def features(self, x: Tensor) -> Tensor:
        out: Tensor = self.drop(x).flatten(1)
        return out


def by_loop(
    points: np.ndarray, own: np.ndarray, real: np.ndarray, labels: np.ndarray
) -> tuple[list[float], list[float]]:
    nearest, mean = [], []
    for point, its in zip(points, own, strict=True):
        distances = [
            math.dist(point, other)
            for other, label in zip(real, labels, strict=True)
            if label not in its
        ]
        nearest.append(min(distances, default=math.inf))
        mean.append(sum(distances) / len(distances) if distances else math.nan)
    return nearest, mean


@pytest.mark.parametrize("block", [1, 7, 40, 1000])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_distances_against_all_pairs(block: int, classes: int) -> None:
    rng = np.random.default_rng(classes)
    points, real = rng.normal(size=(13, 6)), rng.normal(size=(40, 6))
    parents, labels = rng.integers(0, classes, (13, 2)), rng.integers(0, classes, 40)
    parents[0] = (0, 1)
    blocks = zip(
        torch.from_numpy(real).split(block), torch.from_numpy(labels).split(block), strict=True
    )
    actual = distances_to_others(torch.from_numpy(points), torch.from_numpy(parents), blocks)
    for values, expected in zip(actual, by_loop(points, parents, real, labels), strict=True):
        assert values.dtype == torch.float64
        np.testing.assert_allclose(values.numpy(), expected, rtol=1e-10)
    assert bool(actual[0][0].isinf()) == (classes == 2)


def test_near_points_far_from_the_origin_keep_their_distance() -> None:
    points = torch.tensor([[3000.0, 4000.0]])
    real = points + torch.tensor([[0.03, 0.04]])
    nearest, _ = distances_to_others(points, torch.tensor([[0]]), [(real, torch.tensor([1]))])
    assert float(nearest) == pytest.approx(math.dist(points[0].tolist(), real[0].tolist()), 1e-3)


def case(n: int, samples: int, classes: int) -> tuple[DeviceImages, MixedPairs, np.ndarray]:
    """Returns images, pairs, and the normalised pixels [n, 4] by NumPy."""
    rng = np.random.default_rng(n)
    pixels = rng.integers(0, 256, (n, 1, 2, 2), dtype=np.uint8)
    images = DeviceImages(pixels, rng.integers(0, classes, n))
    first, second = rng.integers(0, n, (2, samples))
    pairs = MixedPairs(
        torch.from_numpy(first),
        torch.from_numpy(second),
        torch.from_numpy(rng.random(samples)).float(),
    )
    return images, pairs, ((pixels / 255 - 0.25) / 0.5).reshape(n, 4)


@pytest.mark.parametrize(("n", "samples"), [(30, 1), (30, 20), (1003, 210)])
def test_intrusion_against_all_pairs(n: int, samples: int) -> None:
    """1,003 images are more than one block, 210 mixed ones more than one batch."""
    images, pairs, x = case(n, samples, 4)
    labels = images.labels.numpy()
    i, j, lam = pairs.first.numpy(), pairs.second.numpy(), pairs.lam.double().numpy()[:, None]
    parents = np.stack([labels[i], labels[j]], 1)
    nearest, _ = by_loop(lam * x[i] + (1 - lam) * x[j], parents, x, labels)
    # The parents, compared with those that count for the mixed sample's first label alone.
    real, mean = by_loop(x[i], parents[:, :1], x, labels)
    model = Pixels().train()
    seen = intrusion(model, images, NORMALISE, pairs)
    assert model.drop.training
    expected = Intrusion(np.mean(nearest), min(nearest), np.mean(mean), np.mean(real), samples)
    for name, value in vars(expected).items():
        assert getattr(seen, name) == pytest.approx(value, rel=1e-5), name


def test_samples_without_a_third_class_do_not_count() -> None:
    """With two classes only pairs within one have another class at all."""
    images, pairs, x = case(40, 30, 2)
    labels = images.labels.numpy()
    i, j, lam = pairs.first.numpy(), pairs.second.numpy(), pairs.lam.double().numpy()[:, None]
    inside = labels[i] == labels[j]
    assert 0 < inside.sum() < 30
    mixed = (lam * x[i] + (1 - lam) * x[j])[inside]
    nearest, _ = by_loop(mixed, labels[i][inside][:, None], x, labels)
    seen = intrusion(Pixels(), images, NORMALISE, pairs)
    assert seen.samples == inside.sum()
    assert (seen.mean, seen.minimum) == pytest.approx((np.mean(nearest), min(nearest)), rel=1e-5)
    across = torch.from_numpy(~inside)
    rest = MixedPairs(pairs.first[across], pairs.second[across], pairs.lam[across])
    nothing = intrusion(Pixels(), images, NORMALISE, rest)
    assert nothing.samples == 0
    assert math.isnan(nothing.mean)

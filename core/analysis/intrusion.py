"""Manifold intrusion: how near mixed samples come to real ones of other classes (Fig. 5).

A mixed sample intrudes where it comes to lie, in the features of the trained network, among real
samples whose label is neither of the two that it was mixed from. The paper takes the Euclidean
distance of each mixed sample to the nearest such real one, and of these distances the mean and the
minimum.

Distances grow with the norm of a network's features, which a policy may change as such: a network
whose features are twice as long has twice the distances, and its mixed samples intrude no less. So
`Intrusion` also holds the scale on which to judge them, the mean distance between real samples of
different classes in the same features.

Legend: n mixed samples, N real samples, D features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from core.data import ImageSet, Transform
from core.evaluation import BATCH, evaluating
from core.models import ImageClassifier

__all__ = ["Intrusion", "MixedPairs", "distances_to_others", "intrusion"]

_BLOCK = 5 * BATCH
"""Real samples that are compared at a time."""


@dataclass(frozen=True)
class MixedPairs:
    """n mixed samples by where they come from.

    Attributes:
        first, second: int64 [n]: positions in the training set of the two that were mixed.
        lam: [n], floating, the weight of the first.
    """

    first: Tensor
    second: Tensor
    lam: Tensor

    def __len__(self) -> int:
        return len(self.lam)


@dataclass(frozen=True)
class Intrusion:
    """Distances in the features of a trained network; NaN where no sample has another class.

    Attributes:
        mean, minimum: of the distances of mixed samples to the nearest real sample whose label is
            that of neither parent.
        scale: mean distance of the first parents, real samples, to real ones of other classes.
        real_mean: mean distance of the first parents to the nearest real sample of another class:
            what `mean` would be without mixing.
        samples: mixed samples that have real ones of a third class, and so count.
    """

    mean: float
    minimum: float
    scale: float
    real_mean: float
    samples: int


def intrusion(
    model: ImageClassifier, images: ImageSet, transform: Transform, pairs: MixedPairs
) -> Intrusion:
    """Returns how near mixed samples come to the real samples of other classes.

    Samples are mixed anew from images that are not augmented, so that mixed and real ones differ by
    mixing alone, and go through the network in evaluation mode.

    Args:
        model: the trained network. Modes are as before on return.
        images: the training set; all of it are the real samples.
        transform: its normalisation.
        pairs: the mixed samples, at least one.
    """
    labels = images.labels
    first, second = labels[pairs.first], labels[pairs.second]
    with evaluating(model):
        mixed = torch.cat(list(_mixed_features(model, images, transform, pairs)))
        parents = torch.cat([f for f, _ in _features(model, images, transform, pairs.first)])
        everything = _features(model, images, transform, torch.arange(len(images)))
        nearest, mean = distances_to_others(
            torch.cat([mixed, parents]),
            torch.cat([torch.stack([first, second], 1), torch.stack([first, first], 1)]),
            everything,
        )
    n = len(pairs)
    counting = nearest[:n].isfinite()
    of_mixed, of_parents = nearest[:n][counting], nearest[n:][counting]
    if not len(of_mixed):
        nan = float("nan")
        return Intrusion(nan, nan, nan, nan, 0)
    return Intrusion(
        mean=float(of_mixed.mean()),
        minimum=float(of_mixed.min()),
        scale=float(mean[n:][counting].mean()),
        real_mean=float(of_parents.mean()),
        samples=len(of_mixed),
    )


def distances_to_others(
    points: Tensor, point_labels: Tensor, real: Iterable[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Returns the Euclidean distance of each point to the real samples whose label is none of its
    own.

    Args:
        points: [n, D], floating.
        point_labels: int64 [n, K], the labels of each point.
        real: blocks of features [·, D] and labels int64 [·].

    Returns:
        The smallest distance and the mean, float64 [n] on the CPU each; infinity and NaN where
        there is no such sample.
    """
    points, device = points.double(), points.device
    point_labels = point_labels.to(device)
    squares = points.square().sum(1, keepdim=True)
    nearest = torch.full((len(points),), torch.inf, dtype=torch.float64, device=device)
    total, count = torch.zeros_like(nearest), torch.zeros_like(nearest)
    for features, labels in real:
        features, labels = features.double(), labels.to(device)
        # In double precision: of two near points the difference of large squares is left.
        squared = squares + features.square().sum(1) - 2 * points @ features.T
        distances = squared.clamp_(min=0).sqrt_()
        other = (point_labels.unsqueeze(2) != labels).all(dim=1)
        count += other.sum(1)
        total += torch.where(other, distances, 0.0).sum(1)
        nearest = torch.minimum(nearest, torch.where(other, distances, torch.inf).amin(1))
    return nearest.cpu(), (total / count).cpu()


def _features(
    model: ImageClassifier, images: ImageSet, transform: Transform, indices: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Returns features [·, D] and labels [·] of the images at these positions, block by block."""
    waiting: list[tuple[Tensor, Tensor]] = []
    for at, (pixels, labels) in enumerate(images.batches(indices.split(BATCH)), 1):
        waiting.append((model.features(transform.evaluate(pixels)), labels))
        if at % (_BLOCK // BATCH) == 0:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([f for f, _ in parts]), torch.cat([y for _, y in parts])


def _mixed_features(
    model: ImageClassifier, images: ImageSet, transform: Transform, pairs: MixedPairs
) -> Iterator[Tensor]:
    firsts = images.batches(pairs.first.split(BATCH))
    seconds = images.batches(pairs.second.split(BATCH))
    for (x, _), (other, _), lam in zip(firsts, seconds, pairs.lam.split(BATCH), strict=True):
        weight = lam.to(x.device, torch.float32).view(-1, 1, 1, 1)
        mixed = weight * transform.evaluate(x) + (1 - weight) * transform.evaluate(other)
        yield model.features(mixed)

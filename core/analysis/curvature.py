"""What is seen of Proposition 1 while a network trains: both sides of (P2) on pairs of images."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.analysis.proposition1 import OUTPUTS, class_output, examine, mixup_l1
from core.data.prepared import CellData
from core.random_streams import PAIRS, derived_generator

POINTS, ITERATIONS, TOLERANCE = 5, 30, 0.01
"""Points of each segment, and the power iteration at each."""


@dataclass(frozen=True)
class ImagePairs:
    """P pairs of different training images, normalized and not augmented.

    Attributes:
        x, other: [P, c, h, w] float32.
        labels, other_labels: int64 [P], the labels that they train with.
    """

    x: Tensor
    other: Tensor
    labels: Tensor
    other_labels: Tensor


def draw_pairs(data: CellData, number: int) -> ImagePairs:
    """Returns so many pairs of training images, drawn as MixUp pairs them: without regard to their
    class.

    The draw depends on the number of images and of pairs alone.

    Raises:
        ValueError: there are fewer than two images for each pair.
    """
    if 2 * number > len(data.train):
        raise ValueError(
            f"{number} pairs need {2 * number} different training images, there are "
            f"{len(data.train)}; choose fewer pairs"
        )
    generator = derived_generator(0, PAIRS)
    chosen = torch.randperm(len(data.train), generator=generator)[: 2 * number]
    ((images, labels),) = data.train.batches([chosen])
    x, other = data.transform.evaluate(images).split(number)
    # Two copies of one image have no segment between them.
    apart = (x != other).flatten(1).any(dim=1)
    return ImagePairs(x[apart], other[apart], labels[:number][apart], labels[number:][apart])


def looks_at(epochs: int) -> tuple[int, ...]:
    """Returns the epochs of a training of so many, counted from 1, after which is looked: 1, 2, 5,
    10, 20, 50, ... and the last.

    >>> looks_at(12)
    (1, 2, 5, 10, 12)
    """
    series = (digit * 10**power for power in range(len(str(epochs))) for digit in (1, 2, 5))
    return tuple(sorted({*(epoch for epoch in series if epoch < epochs), epochs}))


def look(model: nn.Module, pairs: ImagePairs) -> dict[str, float]:
    """Returns both sides of (P2) for the logit and for the probability of each pair's first label.

    On a copy in evaluation mode: the model stays as it is, and no random stream moves. Names begin
    with "logit_" or "probability_"; κ is the spectral norm of the Hessian with respect to the
    image, estimated from below at `POINTS` points of each segment; a pair's ratio is its largest
    over λ of 0.1 to 0.9.

    - kappa, kappa_median: the largest over all pairs; the median over pairs of each one's largest.
    - ratio, ratio_median: of the left side to λ(1−λ)‖x − x′‖²/2, the same two. (P2) says that it is
      at most κ.
    - share, share_median: of its own κ that a pair's ratio attains; 0 where that κ is 0.
    - along_median: share of its own κ that curvature along the segment attains.
    - above: pairs whose ratio is above their own κ by more than rounding: they violate (P2), or the
      points or iterations were too few.
    - growth: the largest part by which an estimate grew in its last iteration.
    - gap: the mean left side.
    - probability_mixup_l1: the mean of MixUp's ℓ1 loss on the same mixed images;
      probability_l1_above: in how many percent of them it is above λ(1−λ)·κ/2·‖x − x′‖², κ the
      largest of all.
    """
    model = deepcopy(model).eval().requires_grad_(False)
    metrics: dict[str, float] = {}
    for output in OUTPUTS:
        function = class_output(model, pairs.labels, output)
        seen = examine(
            function,
            pairs.x,
            pairs.other,
            generator=derived_generator(1, PAIRS),
            points=POINTS,
            iterations=ITERATIONS,
            tolerance=TOLERANCE,
        )
        ratio = seen.ratio.amax(dim=0)
        share = torch.where(seen.norm > 0, ratio / seen.norm, 0.0)
        along = torch.where(seen.norm > 0, seen.along / seen.norm, 0.0)
        with torch.no_grad():
            size = torch.maximum(function(pairs.x).abs(), function(pairs.other).abs())
        rounding = 8 * torch.finfo(size.dtype).eps * size
        above = (seen.gap - rounding > seen.scale * seen.norm).any(dim=0)
        numbers = {
            "kappa": seen.norm.max(),
            "kappa_median": seen.norm.median(),
            "ratio": ratio.max(),
            "ratio_median": ratio.median(),
            "share": share.max(),
            "share_median": share.median(),
            "along_median": along.median(),
            "above": above.sum(),
            "gap": seen.gap.mean(),
        }
        if output == "probability":
            targets = torch.ones_like(ratio), (pairs.labels == pairs.other_labels).to(ratio)
            loss = mixup_l1(function, pairs.x, pairs.other, *targets)
            numbers["mixup_l1"] = loss.mean()
            bound = seen.scale * seen.norm.max()
            numbers["l1_above"] = 100 * (loss > bound).double().mean()
        metrics |= {f"{output}_{name}": float(value) for name, value in numbers.items()}
        metrics[f"{output}_growth"] = seen.growth
    return metrics

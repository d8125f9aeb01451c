"""Proposition 1 on pairs of inputs: the left side of (P2), its bound, and MixUp's loss beside them.

The proposition: if f: R^d → R is differentiable and its gradient κ-Lipschitz (P1), then

    |f(λx + (1−λ)x′) − [λf(x) + (1−λ)f(x′)]| ≤ λ(1−λ)·κ/2·‖x − x′‖²        (P2)

The proof is right, and the bound is sharp: a quadratic form along its outermost eigenvector attains
it for every λ. What it assumes, and where the paper's reading of it needs care:

1. f is one number. A classifier has C of them; (P2) holds for each, and for all at once with the
   operator norm of the Jacobian in (P1). Here f is the logit or the probability of one class
   (`class_output`). The norm is Euclidean, in the units of what f is given (normalized images).
2. (P1) needs a gradient that does not jump. A ReLU network's does: no κ exists, and near a kink the
   left side is of the order of λ(1−λ)‖x − x′‖, so that its ratio to λ(1−λ)‖x − x′‖²/2 has no bound.
   The paper writes "(sub)gradient", which does not help. Use smooth networks
   (`core.models.smooth`).
3. Both integrals of the proof run along the segment between x and x′. With u the unit vector along
   it, the left side is exactly λ(1−λ)‖x − x′‖²/2 times a weighted mean of ⟨u, ∇²f·u⟩ over the
   segment, the weights positive and of sum 1. So the *ratio*

       left side / (λ(1−λ)‖x − x′‖²/2)  ≤  max |⟨u, ∇²f·u⟩|  ≤  max ‖∇²f‖  ≤  κ

   (both maxima over the segment): curvature that changes sign along the way, that stands across it,
   or that lies elsewhere is not seen. `examine` measures the first three.
4. It is one-way. A small κ makes the left side small; a small left side leaves κ free (x₁ + c·x₂²
   on pairs that differ in x₁ alone: zero left side, κ = 2c). The left side is a lower bound of κ,
   and to lower a lower bound controls nothing. "Controlling the Lipschitz constant of the gradient
   necessarily requires minimizing MixUp loss" is what follows; "minimizing MixUp loss helps
   controlling the Lipschitz constant" (section IV-D) is the converse, a matter of experiment.
5. MixUp's loss is not the left side. With the true labels for f(x) and f(x′) it is within
   λ|f(x) − y| + (1−λ)|f(x′) − y′| of it, so that it is a lower bound of anything only where f fits
   the training labels: the constant 0 has κ = 0 and a positive loss. And cross-entropy, in place of
   the ℓ1 loss, is at least the entropy of the mixed label, whatever f is. `mixup_l1` is the ℓ1 one.
6. "When x is far from x′, the mixing policy λ has a much greater effect": the bound grows with
   ‖x − x′‖², the left side need not. That of a probability is at most 1: its ratio falls like
   8/‖x − x′‖² at λ = 1/2, and far pairs say least about κ, not most.

Legend: P pairs, L values of λ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from core.analysis.lipschitz import ScalarFunction, directional_curvature, spectral_norms
from core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

Output = Literal["logit", "probability"]
OUTPUTS: tuple[Output, ...] = get_args(Output)

GRID = tuple(i / 10 for i in range(1, 10))
"""λ at which pairs are looked at."""


@dataclass(frozen=True)
class Examined:
    """What was seen on P pairs.

    Attributes:
        gap: [L, P], the left side of (P2).
        ratio: [L, P], the left side over λ(1−λ)‖x − x′‖²/2: κ is at least this.
        along: [P], the largest |⟨u, ∇²f·u⟩| at the points looked at on the segment.
        norm: [P], the largest ‖∇²f‖ at these points, from below.
        growth: the largest growth of one of these norms in its last iteration; see `SpectralNorms`.
        scale: [L, P], λ(1−λ)‖x − x′‖²/2.
    """

    gap: Tensor
    ratio: Tensor
    along: Tensor
    norm: Tensor
    growth: float
    scale: Tensor


def class_output(model: nn.Module, classes: Tensor, output: Output) -> ScalarFunction:
    """Returns f of P inputs [P, ...]: of input i the logit, or the probability, of class
    `classes[i]`.

    Args:
        model: from [P, ...] to logits [P, C]; stays in the mode it is in, which must make its rows
            independent: evaluation mode.
        classes: int64 [P].
        output: "logit" or "probability".
    """

    def function(x: Tensor) -> Tensor:
        logits: Tensor = model(x)
        values = logits if output == "logit" else logits.softmax(dim=1)
        return values.gather(1, classes.unsqueeze(1)).squeeze(1)

    return function


def left_side(
    function: ScalarFunction, x: Tensor, other: Tensor, lam: Sequence[float] = GRID
) -> Tensor:
    """Returns |f(λx + (1−λ)x′) − [λf(x) + (1−λ)f(x′)]|, [L, P], for x [P, ...] and x′ = `other`,
    of the same shape."""
    with torch.no_grad():
        ends = function(x), function(other)
    return _distances(function, x, other, lam, *ends)


def mixup_l1(
    function: ScalarFunction,
    x: Tensor,
    other: Tensor,
    targets: Tensor,
    other_targets: Tensor,
    lam: Sequence[float] = GRID,
) -> Tensor:
    """Returns MixUp's ℓ1 loss |f(λx + (1−λ)x′) − [λy + (1−λ)y′]|, [L, P]: true values for f(x),
    f(x′).

    Args:
        function: f, of the class that the targets speak of.
        x, other: [P, ...].
        targets, other_targets: [P], y and y′: 1 where the input is of that class, else 0.
        lam: L values in [0, 1].
    """
    return _distances(function, x, other, lam, targets, other_targets)


def examine(
    function: ScalarFunction,
    x: Tensor,
    other: Tensor,
    *,
    generator: torch.Generator,
    lam: Sequence[float] = GRID,
    points: int = 5,
    iterations: int = 30,
    tolerance: float = 1e-3,
) -> Examined:
    """Returns both sides of (P2) on P pairs, κ by its estimate on each pair's own segment.

    The segment is looked at in so many equidistant points, both ends among them. Differences of
    nearly equal numbers are taken: give float64.

    Args:
        function: f, twice differentiable; see `ScalarFunction`.
        x, other: [P, ...] float, different inputs.
        generator: on the CPU: where power iteration starts.
        lam: L values in (0, 1).
        points: on each segment, at least 2.
        iterations, tolerance: of the power iteration; see `spectral_norms`.

    Raises:
        ValueError: points is below 2, a λ outside (0, 1), or the two inputs of a pair are equal.
    """
    if points < 2:
        raise ValueError(f"points must be at least 2, the ends, got {points}")
    outside = [value for value in lam if not 0 < value < 1]
    if outside:
        raise ValueError(f"lam must lie in (0, 1), got {outside[0]}: at the ends (P2) says 0 ≤ 0")
    squares = (x - other).flatten(1).square().sum(dim=1)
    if bool((squares == 0).any()):
        pair = int((squares == 0).nonzero()[0])
        raise ValueError(f"the two inputs of pair {pair} are equal; give pairs of different inputs")
    gap = left_side(function, x, other, lam)
    weights = squares.new_tensor([value * (1 - value) / 2 for value in lam])
    scale = weights.unsqueeze(1) * squares
    along = torch.zeros_like(squares)
    norm = torch.zeros_like(squares)
    growth = 0.0
    for step in range(points):
        place = other + step / (points - 1) * (x - other)
        curvature = directional_curvature(function, place, x - other)
        along = torch.maximum(along, curvature.abs())
        norms = spectral_norms(
            function, place, generator=generator, iterations=iterations, tolerance=tolerance
        )
        norm = torch.maximum(norm, norms.values)
        growth = max(growth, float(norms.growth.max()))
    return Examined(gap, gap / scale, along, norm, growth, scale)


def _distances(
    function: ScalarFunction,
    x: Tensor,
    other: Tensor,
    lam: Sequence[float],
    first: Tensor,
    second: Tensor,
) -> Tensor:
    """Returns |f at the mixed inputs − the mixed numbers|, [L, P]."""
    with torch.no_grad():
        rows = [
            function(value * x + (1 - value) * other) - (value * first + (1 - value) * second)
            for value in lam
        ]
    return torch.stack(rows).abs()

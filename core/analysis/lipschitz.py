"""Curvature of a function with respect to its input: Hessian-vector products, power iteration.

The least κ for which a gradient is κ-Lipschitz on a convex set is the supremum over the set of the
spectral norm of the Hessian, ‖∇²f‖. Here it is found at single points, from below.

Legend: N points, each with an input of its own, [N, ...].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

ScalarFunction: TypeAlias = "Callable[[Tensor], Tensor]"
"""From inputs [N, ...] to one number each, [N]; number i depends on input i alone (so no BatchNorm
in training mode, and no dropout), and twice differentiably."""


@dataclass(frozen=True)
class SpectralNorms:
    """Estimates by power iteration, each at most the true norm.

    Attributes:
        values: [N], of the inputs' dtype.
        growth: [N], by what part of itself each grew in its last iteration.
        iterations: Hessian-vector products taken at each point.
    """

    values: Tensor
    growth: Tensor
    iterations: int


def hessian(function: ScalarFunction, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Returns the Hessian at each of N points as a linear map: from v [N, ...] to H·v, of the same
    shape.

    By double backward. The gradient is computed once, here; each product is one more backward pass
    through it. Detached.

    Raises:
        ValueError: the function does not give one number for each point.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = function(x)
        if y.shape != x.shape[:1]:
            raise ValueError(
                f"the function must give one number for each of {len(x)} points, got shape "
                f"{list(y.shape)}"
            )
        (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)

    def product(v: Tensor) -> Tensor:
        if not gradient.requires_grad:  # of a linear function it is a constant
            return torch.zeros_like(v)
        (product_of_v,) = torch.autograd.grad(
            gradient, x, v, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return product_of_v

    return product


def spectral_norms(
    function: ScalarFunction,
    x: Tensor,
    *,
    generator: torch.Generator,
    iterations: int = 30,
    tolerance: float = 1e-3,
) -> SpectralNorms:
    """Returns ‖∇²f‖ at each of N points by power iteration from a random direction.

    The estimate is ‖H·v‖ for a unit vector v. It is at most ‖H‖, and as H is symmetric it never
    falls from one iteration to the next: ‖H·v‖² = ⟨v, H²v⟩ ≤ ‖H²v‖. It converges also where the two
    outermost eigenvalues differ in sign alone and v itself does not. How fast depends on the gap
    between their sizes and is not known beforehand: `growth` says how it stands.

    Args:
        function: of N inputs to N numbers; see `ScalarFunction`.
        x: [N, ...] float.
        generator: on the CPU: of the first directions.
        iterations: at most so many Hessian-vector products at each point, at least 1.
        tolerance: stop when every estimate grew by less than this part of itself.

    Raises:
        ValueError: iterations is below 1, or the function does not give N numbers.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    product = hessian(function, x)
    start = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    v = _unit(start).to(x)
    values = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    growth = torch.ones_like(values)
    done = 0
    while done < iterations:
        done += 1
        image = product(v)
        norms = image.flatten(1).norm(dim=1)
        # Where the Hessian is zero nothing grows.
        growth = torch.where(norms > 0, 1 - values / norms, 0.0)
        values = torch.maximum(values, norms)  # against rounding
        if bool((growth < tolerance).all()):
            break
        v = _unit(image)
    return SpectralNorms(values, growth.clamp(min=0.0), done)


def directional_curvature(function: ScalarFunction, x: Tensor, direction: Tensor) -> Tensor:
    """Returns ⟨u, ∇²f·u⟩ [N] at each of N points, u the unit vector along `direction` [N, ...]."""
    u = _unit(direction)
    return (u * hessian(function, x)(u)).flatten(1).sum(dim=1)


def _unit(v: Tensor) -> Tensor:
    """Returns each of N vectors [N, ...] at length 1; a zero vector stays."""
    lengths = v.flatten(1).norm(dim=1).clamp(min=torch.finfo(v.dtype).tiny)
    return v / lengths.view(-1, *[1] * (v.dim() - 1))

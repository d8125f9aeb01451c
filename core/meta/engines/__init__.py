"""The engines are different roads to the same derivative.

With L the loss of the mixed batch at θ, θ′ the parameters after one virtual step, and v the
gradient of the validation loss at θ′, the hypergradient is `(∂θ′/∂λ)ᵀ v`; for plain descent at
rate η it is `−∂/∂λ ⟨∇θ L(θ; λ), η·v⟩`.
"""

from __future__ import annotations

from collections.abc import Callable

from core.meta.engines import (
    compiled,
    double_backward,
    finite_difference,
    forward_reverse,
    unroll,
)
from core.meta.problem import MetaGradient, MetaProblem

__all__ = ["ENGINES", "FIRST_ORDER"]

ENGINES: dict[str, Callable[[MetaProblem], MetaGradient]] = {
    "unroll": unroll.unroll,
    "double_backward": double_backward.double_backward,
    "forward_reverse": forward_reverse.forward_reverse,
    "finite_difference": finite_difference.finite_difference,
    "compiled": compiled.compiled,
}
"""By name, as `hypergradient` takes them."""

FIRST_ORDER = frozenset({"finite_difference"})
"""Those that differentiate once: fused attention and compiled parts stay as they are."""

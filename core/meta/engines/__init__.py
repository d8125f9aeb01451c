"""The engines: different roads to the same derivative.

With L the loss of the mixed batch at θ, θ′ the parameters after one virtual step, and v the
gradient of the validation loss at θ′, the hypergradient is `(∂θ′/∂λ)ᵀ v`; for plain descent at
rate η it is `−∂/∂λ ⟨∇θ L(θ; λ), η·v⟩`.
"""

from __future__ import annotations

from collections.abc import Callable

from core.meta.engines.compiled import compiled
from core.meta.engines.double_backward import double_backward
from core.meta.engines.finite_difference import finite_difference
from core.meta.engines.forward_reverse import forward_reverse
from core.meta.engines.unroll import unroll
from core.meta.problem import MetaGradient, MetaProblem

ENGINES: dict[str, Callable[[MetaProblem], MetaGradient]] = {
    "unroll": unroll,
    "double_backward": double_backward,
    "forward_reverse": forward_reverse,
    "finite_difference": finite_difference,
    "compiled": compiled,
}
"""By name, as `hypergradient` takes them."""

FIRST_ORDER = frozenset({"finite_difference"})
"""Those that differentiate once: fused attention and compiled parts stay as they are."""

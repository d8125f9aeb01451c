"""The engines: different roads to the same derivative.

With L the loss of the mixed batch at θ, θ′ the parameters after one virtual step, and v the
gradient of the validation loss at θ′, the hypergradient is `(∂θ′/∂λ)ᵀ v`; for plain descent at
rate η it is `−∂/∂λ ⟨∇θ L(θ; λ), η·v⟩`.
"""

from __future__ import annotations

from collections.abc import Callable

from core.engines.double_backward import double_backward
from core.engines.unroll import unroll
from core.meta_problem import MetaGradient, MetaProblem

ENGINES: dict[str, Callable[[MetaProblem], MetaGradient]] = {
    "unroll": unroll,
    "double_backward": double_backward,
}
"""By name, as `hypergradient` takes them."""

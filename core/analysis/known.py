"""Networks whose κ is known exactly, to hold the estimate and the inequality (P2) against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.analysis.proposition1 import examine
from core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from core.analysis.lipschitz import ScalarFunction

SIZE, HIDDEN = 32, 64
PAIRS = 200


@dataclass(frozen=True)
class Known:
    """What the measurements give where the truth is known.

    Attributes:
        name: of the network.
        kappa: its exact κ.
        estimate: the largest ‖∇²f‖ that was found; at most κ.
        ratio: the largest ratio of (P2)'s left side to λ(1−λ)‖x − x′‖²/2; at most κ.
        violations: pairs and λ whose ratio is above κ by more than rounding.
        looked_at: pairs times λ.

    Examples:
        >>> from core.analysis import known_networks
        >>> [known.violations for known in known_networks()]
        [0, 0]
    """

    name: str
    kappa: float
    estimate: float
    ratio: float
    violations: int
    looked_at: int


def known_networks() -> list[Known]:
    """Returns the measurements on two networks of fixed weights, in float64.

    One hidden layer of squares, Σ aₖ(wₖ·x)², has the Hessian 2·Wᵀ·diag(a)·W everywhere, and κ is
    the size of its outermost eigenvalue. A single sine, sin(w·x), has κ = ‖w‖². One pair in four
    lies along the direction of the largest curvature, where the bound is attained or nearly so.

    Examples:
        >>> from core.analysis import known_networks
        >>> all(known.estimate <= known.kappa * (1 + 1e-9) for known in known_networks())
        True
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    hidden, out, wave = draw(HIDDEN, SIZE), draw(HIDDEN), draw(SIZE)
    values, vectors = torch.linalg.eigh(2 * hidden.T @ (out.unsqueeze(1) * hidden))
    outermost = int(values.abs().argmax())

    def squares(x: Tensor) -> Tensor:
        return ((x @ hidden.T) ** 2) @ out

    def sine(x: Tensor) -> Tensor:
        return torch.sin(x @ wave)

    x, steps = draw(PAIRS, SIZE), 0.2 * draw(PAIRS, SIZE)
    return [
        _measured(
            "squares", squares, float(values[outermost].abs()), vectors[:, outermost], x, steps
        ),
        _measured("sine", sine, float(wave @ wave), wave / wave.norm(), x, steps),
    ]


def _measured(
    name: str, function: ScalarFunction, kappa: float, top: Tensor, x: Tensor, steps: Tensor
) -> Known:
    steps = steps.clone()
    steps[::4] = 0.05 * top
    seen = examine(
        function,
        x,
        x + steps,
        generator=torch.Generator().manual_seed(1),
        points=5,
        iterations=500,
        tolerance=1e-6,
    )
    above = int((seen.ratio > kappa * (1 + 1e-6)).sum())
    estimate, ratio = float(seen.norm.max()), float(seen.ratio.max())
    return Known(name, kappa, estimate, ratio, above, seen.ratio.numel())

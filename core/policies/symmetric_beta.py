"""This module draws Beta(α, α) as a smooth function of log α and of noise that does not know α."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from core.random_streams import stream_device

_LEAST = 2.0**-54


def draw_noise(n: int, generator: torch.Generator | None, *, stratified: bool = False) -> Tensor:
    """Draws what n numbers of any Beta(α, α) are made of: [2, n], float64, where the stream is.

    Args:
        n: how many.
        generator: the random stream.
        stratified: each of both rows has one number in each of n equal parts of [0, 1), in random
            order, as in a Latin square: every number is uniform by itself, and together they are
            spread more evenly than chance spreads them. Two permutations more are drawn.
    """
    device = stream_device(generator)
    noise = torch.rand(2, n, generator=generator, device=device, dtype=torch.float64)
    if not stratified:
        return noise
    parts = [torch.randperm(n, generator=generator, device=device) for _ in range(2)]
    return (torch.stack(parts) + noise) / n


def symmetric_beta(noise: Tensor, log_alpha: float) -> tuple[Tensor, Tensor]:
    """Returns λ ~ Beta(α, α) and dλ/d(log α) with the noise held fixed.

    With U and V uniform, R = U^(−1/α) − 1 and c = cos 2πV,

        λ = ½ + ½ sign(c) / √(1 + 1 / (R c²))

    for every α > 0 (Devroye 1996, "Random variate generation in one line of code"). Of all ways to
    write a Beta variable as a function of noise, the quantile function gives the derivative of
    least variance; this one is in closed form, and its root mean square is 3 % larger at α = 1,
    14 % at 0.1.

    Args:
        noise: [2, n], float64, of `draw_noise`.
        log_alpha: finite.

    Returns:
        Both [n], float64.
    """
    exponential = -noise[0].clamp_min(_LEAST).log()
    cosine = torch.cos(2 * math.pi * noise[1])
    t = exponential * math.exp(-log_alpha)
    rise = -torch.expm1(-t)  # 1 − U^(1/α)
    q = torch.exp(-t) / (rise.clamp_min(_LEAST) * cosine.square())  # 1 / (R c²)
    root = (1 + q).rsqrt()
    sign = torch.copysign(torch.ones_like(cosine), cosine)
    ratio = t / rise.clamp_min(_LEAST)
    return 0.5 + 0.5 * sign * root, -0.25 * sign * q * root**3 * ratio

"""This module names what a training may do to its images and labels."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["NOISE_KINDS", "NORMALISATIONS", "PADDINGS", "NoiseKind", "Normalisation", "Padding"]

Normalisation = Literal["standard", "unit", "gcn-zca"]
NORMALISATIONS: tuple[Normalisation, ...] = get_args(Normalisation)
"""Mean 0 and variance 1 in each channel; [-1, 1]; contrast and ZCA, see `core.data.whitening`."""

Padding = Literal["zero", "reflect"]
PADDINGS: tuple[Padding, ...] = get_args(Padding)

NoiseKind = Literal["symmetric", "pair"]
NOISE_KINDS: tuple[NoiseKind, ...] = get_args(NoiseKind)

"""This module brings the weight of the unlabelled term up from 0."""

from __future__ import annotations

import math
from typing import Literal

Ramp = Literal["none", "linear", "sigmoid"]


def ramp(kind: Ramp, progress: float, share: float) -> float:
    """Returns the part of its weight that the unlabelled term has by now, in [0, 1].

    With x = progress / share: "linear" is x (MixMatch: share 1/64), "sigmoid" is exp(−5 (1 − x)²),
    which starts at exp(−5) = 0.0067 (Laine and Aila; Oliver et al.: share 0.4); 1 from x = 1 on.
    "none" is 1 throughout.

    Args:
        kind: its shape.
        progress: share of the training that is done, in [0, 1].
        share: of the training, over which it ramps up, in [0, 1]; 0: it is up from the start.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in ("none", "linear", "sigmoid"):
        raise ValueError(f"ramp must be none, linear or sigmoid; got {kind!r}")
    if kind == "none" or progress >= share:
        return 1.0
    x = progress / share
    return x if kind == "linear" else math.exp(-5 * (1 - x) ** 2)

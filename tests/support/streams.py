"""Random streams of tests."""

from __future__ import annotations

import torch


def generator(seed: int = 0) -> torch.Generator:
    """Returns a stream of its own."""
    return torch.Generator().manual_seed(seed)

"""This module writes which of N images are meant as a line of text."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["pack_mask", "unpack_mask"]


def pack_mask(mask: Tensor) -> str:
    """Returns bool [N] in hexadecimal: a bit for each, the first one the highest of its byte."""
    return np.packbits(mask.cpu().numpy()).tobytes().hex()


def unpack_mask(text: str, size: int) -> Tensor:
    """Returns what `pack_mask` wrote, bool [size] on the CPU.

    Raises:
        ValueError: the text is of another number of images, or no such text.
    """
    try:
        packed = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    except ValueError as error:
        raise ValueError(f"a mask of images is written in hexadecimal: {error}") from error
    if len(packed) != -(-size // 8):
        raise ValueError(
            f"a mask of {8 * len(packed)} images at most does not fit {size} images; make it of "
            "the same training images"
        )
    return torch.from_numpy(np.unpackbits(packed, count=size).astype(bool))

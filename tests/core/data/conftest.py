from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WriteTree = Callable[..., np.ndarray]


@pytest.fixture
def write_tree(tmp_path: Path) -> WriteTree:
    """Writes PART/CLASS/NNN.png of random pixels; returns them as [classes * each, H, W, C]."""

    def write(
        part: str,
        classes: tuple[str, ...] = ("bee", "ant"),
        each: int = 4,
        size: tuple[int, int] = (6, 6),
        mode: str = "RGB",
        suffix: str = ".png",
        seed: int = 0,
    ) -> np.ndarray:
        rng = np.random.default_rng(seed)
        shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
        written = []
        for name in classes:
            folder = tmp_path / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(each):
                pixels = rng.integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:03d}{suffix}")
                written.append(pixels)
        return np.stack(written)

    return write

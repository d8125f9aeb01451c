"""What a training took of its GPU's memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

CONTEXT_BYTES = 2**30
"""Allowed for what a process holds on a GPU beside torch's tensors: CUDA's context and kernels take
some hundreds of MiB, of which torch knows nothing."""

MARGIN = 1.1
"""The next training may take so much more than the one that was measured."""

GIB = 2**30
_STEPS = 10_000  # Ray counts GPUs in ten-thousandths


@dataclass(frozen=True)
class GpuUse:
    """What a training took of its GPU.

    Attributes:
        peak: bytes at most, with what torch keeps in reserve and the allowance for the context.
        total: bytes that the GPU has.
        share: part of the GPU that was the training's.
    """

    peak: int
    total: int
    share: float

    @property
    def safe_share(self) -> float:
        """Returns the smallest 1/n that holds such a training with a margin; 1 where none does."""
        number = max(1, math.floor(self.total / (MARGIN * self.peak)))
        return math.ceil(_STEPS / number) / _STEPS

    def to_environment(self) -> dict[str, str]:
        """Returns its part of `CellRecord.environment`."""
        return {
            "gpu_peak_bytes": str(self.peak),
            "gpu_bytes": str(self.total),
            "gpu_share": f"{self.share:g}",
        }

    @classmethod
    def from_environment(cls, values: Mapping[str, str]) -> GpuUse | None:
        """Reads what `to_environment` returned; None where no GPU was used."""
        if "gpu_peak_bytes" not in values:
            return None
        peak, total, share = (values[f"gpu_{name}"] for name in ("peak_bytes", "bytes", "share"))
        return cls(int(peak), int(total), float(share))

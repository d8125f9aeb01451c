"""A meter says how much of a GPU's memory a training takes, so that as many share one as fit: Ray
counts fractions of a GPU and leaves its memory to whoever takes it first."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import torch

from hpo.cells.cell import Cell
from hpo.cells.gpu_use import CONTEXT_BYTES, GpuUse

Read = Callable[[], GpuUse | None]
"""What was used so far; None where there is no GPU."""

Meter = Callable[[str, float], AbstractContextManager[Read]]
"""Watches a device, of which the training inside has a share."""


@contextmanager
def gpu_meter(device: str, share: float) -> Iterator[Read]:
    """Measures torch's peak on a GPU, and hold the process to its share.

    torch raises OutOfMemoryError in a training that wants more than its share, and the others on
    the GPU go on undisturbed.

    Args:
        device: of torch; on the CPU nothing is done.
        share: part of the GPU that the training has.
    """
    if not device.startswith("cuda"):
        yield lambda: None
        return
    torch.cuda.empty_cache()  # of the training before in this process
    torch.cuda.reset_peak_memory_stats(device)
    total = torch.cuda.get_device_properties(device).total_memory
    limit = share - CONTEXT_BYTES / total if share < 1 else 1.0
    torch.cuda.set_per_process_memory_fraction(max(limit, 0.0), torch.device(device).index or 0)
    yield lambda: GpuUse(torch.cuda.max_memory_reserved(device) + CONTEXT_BYTES, total, share)


def to_measure(cells: Iterable[Cell], known: Iterable[Cell] = ()) -> list[Cell]:
    """Returns one cell of each kind that may take memory of its own, cut to an epoch.

    Args:
        cells: what is to be trained.
        known: cells whose kinds need no measurement.
    """
    seen = {_kind(cell) for cell in known}
    chosen = []
    for cell in cells:
        if (kind := _kind(cell)) not in seen:
            seen.add(kind)
            chosen.append(replace(cell, training=replace(cell.training, epochs=1)))
    return chosen


def _kind(cell: Cell) -> str:
    """Returns what a cell's need of memory depends on: no seed and length, nor a policy's α, λ."""
    training = cell.to_dict()["training"]
    for name in ("seed", "epochs", "lr"):
        del training[name]
    for name in ("alpha", "lam", "quantiles"):
        del training["policy"][name]
    training["policy"].pop("schedule", None)
    if cell.population is not None:
        training["members"] = cell.population.members  # whose weights are all kept
    return json.dumps(training, sort_keys=True)

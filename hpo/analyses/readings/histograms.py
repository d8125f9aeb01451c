"""Histograms of λ at the beginning and at the end of a training."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.cells.record import CellRecord
from hpo.report.records import finished_finals
from hpo.report.style import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Histograms = dict[str, tuple[np.ndarray, np.ndarray]]
"""Counts of λ in equal bins of [0, 1] by method, in the first and in the last epoch."""


def lambda_histogram_sums(
    records: Sequence[CellRecord], datasets: Sequence[str], methods: Mapping[str, Any]
) -> dict[str, Histograms]:
    """Returns the histograms of λ by data set, summed over the seeds of finished final cells.

    Methods whose λ stays in one bin (none, fixed) and data sets without any other are left out.
    """
    by_dataset: dict[str, Histograms] = {}
    for dataset in datasets:
        sums: Histograms = {}
        for method in methods:
            results = [
                record.trained
                for record in finished_finals(records, method)
                if record.cell.dataset == dataset and record.trained.lam_histogram
            ]
            if not results:
                continue
            first, last = (
                np.sum([getattr(result, name) for result in results], axis=0)
                for name in ("lam_histogram_first", "lam_histogram")
            )
            if np.count_nonzero(first) > 1 or np.count_nonzero(last) > 1:
                sums[method] = (first, last)
        if sums:
            by_dataset[dataset] = sums
    return by_dataset


def draw_histogram(ax: Axes, title: str, first: np.ndarray, last: np.ndarray) -> None:
    """Draws the density of λ in the first epoch (line) and in the last (filled)."""
    edges = np.linspace(0.0, 1.0, len(last) + 1)
    ax.stairs(_density(last), edges, fill=True, color=COLORS[0], alpha=0.55, label="last epoch")
    ax.stairs(_density(first), edges, color="black", lw=1.0, ls="--", label="first epoch")
    ax.set_title(textwrap.fill(title, 22, break_on_hyphens=False), fontsize=8)
    ax.set_xlim(0.0, 1.0)
    ax.set_ylim(bottom=0.0)
    ax.set_xticks([0.0, 0.5, 1.0], ["0", "0.5", "1"])
    ax.tick_params(labelsize=7)
    ax.set_xlabel("λ", labelpad=1)


def _density(counts: np.ndarray) -> np.ndarray:
    return np.asarray(counts * len(counts) / max(1, counts.sum()))

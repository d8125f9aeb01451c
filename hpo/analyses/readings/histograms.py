"""Histograms of λ at the beginning and at the end of a training."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpo.cells.record import CellRecord
from hpo.report.records import finished_finals
from hpo.report.style import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def lambda_histogram_sums(
    records: Sequence[CellRecord], methods: Iterable[str]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns the counts of λ in equal bins of [0, 1] by method, in the first and in the last
    epoch, summed over the seeds of finished final cells of one data set.

    Methods whose λ stays in one bin (none, fixed) are left out.
    """
    sums = {}
    for method in methods:
        finished = [record.trained for record in finished_finals(records, method)]
        results = [result for result in finished if result.lam_histogram]
        if not results:
            continue
        first, last = (
            np.sum([getattr(result, name) for result in results], axis=0)
            for name in ("lam_histogram_first", "lam_histogram")
        )
        if np.count_nonzero(first) > 1 or np.count_nonzero(last) > 1:
            sums[method] = (first, last)
    return sums


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

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from hpo.analyses.readings.histograms import draw_histogram, lambda_histogram_sums
from hpo.cells.record import CellRecord

U_SHAPE = [9, *[1] * 18, 9]
SPIKE = [28, *[0] * 19]


def test_they_are_summed_over_seeds_where_some_lambda_varies(
    make_record: Callable[..., CellRecord],
) -> None:
    records = [
        make_record("moves", seed, lam_histogram=U_SHAPE, lam_histogram_first=[1] * 20)
        for seed in (0, 1)
    ]
    records.append(make_record("stays", lam_histogram=SPIKE, lam_histogram_first=SPIKE))
    sums = lambda_histogram_sums(records, ["moves", "stays", "missing"])
    assert list(sums) == ["moves"]
    first, last = sums["moves"]
    np.testing.assert_array_equal(first, [2] * 20)
    np.testing.assert_array_equal(last, [2 * count for count in U_SHAPE])


def test_they_are_drawn_as_densities() -> None:
    ax = Figure().subplots()
    draw_histogram(ax, "MetaMixUp", np.ones(20, int), np.array(U_SHAPE))
    last, first = ax.patches
    # 9 of 36 in a bin of width 1/20: density 5; uniform: 1.
    np.testing.assert_allclose(last.get_data().values, [5, *[20 / 36] * 18, 5])
    np.testing.assert_allclose(first.get_data().values, np.ones(20))

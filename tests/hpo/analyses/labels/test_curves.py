from __future__ import annotations

import numpy as np
import pytest

from hpo.analyses.labels.curves import curve_figure


def test_means_over_seeds_with_the_number_of_wrong_labels() -> None:
    wrong = np.array([True, False, False, False, True])
    curves = {
        "one": {
            "a": [(np.array([1, 0.5, 1 / 3, 0.5, 0.4]), wrong), (np.full(5, 0.4), wrong)],
            "b": [(np.full(5, 0.4), wrong)],
        },
        "folder:/a/b": {"b": [(np.full(4, 0.5), wrong[:4])]},
    }
    figure = curve_figure(curves, {"a": "A", "b": "B"})
    first, second = figure.axes
    lines = {str(line.get_label()): line for line in first.lines}
    np.testing.assert_array_equal(lines["A"].get_xdata(), [1, 2, 3, 4, 5])
    np.testing.assert_allclose(
        np.asarray(lines["A"].get_ydata(), float), [0.7, 0.45, 11 / 30, 0.45, 0.4]
    )
    assert np.asarray(lines["guessing"].get_ydata()) == pytest.approx([0.4, 0.4])
    assert np.asarray(lines["number of wrong labels"].get_xdata()) == pytest.approx([2, 2])
    assert first.get_xlim() == pytest.approx((1, 4))
    # A method keeps its color where another one is missing.
    other = {str(line.get_label()): line for line in second.lines}
    assert other["B"].get_color() == lines["B"].get_color() != lines["A"].get_color()

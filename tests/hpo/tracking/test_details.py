from __future__ import annotations

import numpy as np
import pytest

from hpo.cells.result import PartialResult
from hpo.tracking.details import map_image, maps_of, numbers_of, series_of
from tests.support.results import result


def test_nothing_comes_of_a_result_without_lam() -> None:
    empty = {"lam_histogram": [0] * 20, "lam_histogram_first": [0] * 20}
    for training in (PartialResult.of([]), result(**empty), result(**empty, findings={})):
        assert series_of(training) == {}
        assert numbers_of(training) == {}
        assert maps_of(training) == {}


def test_a_density_has_the_integral_1() -> None:
    """Whatever the number of bins: the mean over equal bins of [0, 1]."""
    for bins in (4, 20, 100):
        counts = list(range(1, bins + 1))
        density = series_of(result(lam_histogram=counts))["lam_density"]
        assert np.mean([value for _, value in density]) == pytest.approx(1.0)
        steps = [step for step, _ in density]
        assert steps == sorted(set(steps))
        assert 0 <= steps[0] <= steps[-1] < 100


def test_a_picture_has_one_scale_for_all_and_grey_where_there_is_nothing() -> None:
    image = map_image(np.array([[0.0, 1.0], [0.5, np.nan]]))
    side = len(image) // 2
    assert image.dtype == np.uint8
    assert image.shape == (2 * side, 2 * side, 3)
    low, high, middle, nothing = (
        image[row * side + side // 2, column * side + side // 2].astype(int)
        for row in range(2)
        for column in range(2)
    )
    assert low[0] > low[2]  # brown
    assert high[2] > high[1]  # violet
    assert min(middle) > 230  # white
    assert len(set(nothing.tolist())) == 1
    assert 100 < nothing[0] < 180
    again = map_image(np.array([[0.0, 0.2], [0.5, 0.1]]))
    assert (again[0, 0] == image[0, 0]).all()


def test_as_many_classes_as_imagenet_has() -> None:
    assert map_image(np.full((1000, 1000), 0.5)).shape == (1000, 1000, 3)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hpo.analyses.figures.lambda_frequency import (
    frequency_figure,
    frequency_table,
    lambda_frequency,
    near,
)
from hpo.report.outcome import Outcome
from hpo.study.named_rows import METAMIXUP, METAMIXUP_PAPER, MIXUP

ROWS = [MIXUP, METAMIXUP_PAPER, METAMIXUP]
FLAT = [10] * 20
MIDDLE = [*[0] * 10, *[40] * 5, *[0] * 5]


def ends(low: int, high: int) -> dict[str, Any]:
    """200 λ: so many in each of the two lowest and the two highest bins, the rest in between."""
    inside, rest = divmod(200 - 2 * low - 2 * high, 16)
    between = [inside + (at < rest) for at in range(16)]
    return {"lam_histogram": [low, low, *between, high, high], "lam_histogram_first": FLAT}


@pytest.fixture
def outcome(make_outcome: Callable[..., Outcome]) -> Outcome:
    letter = {"lam_histogram": MIDDLE, "lam_histogram_first": MIDDLE}
    drawn = {"lam_histogram": FLAT, "lam_histogram_first": FLAT}
    return make_outcome(
        ROWS,
        {
            "beta-1": [drawn] * 3,
            "metamixup-paper": [letter] * 3,
            "metamixup": [ends(20, 20), ends(22, 21), ends(24, 22)],
        },
    )


def test_frequencies_are_of_each_seed_and_in_percent(outcome: Outcome) -> None:
    frame = frequency_table(outcome)
    assert (frame["beta_1"] == 5).all()
    chosen = frame[(frame["method"] == "metamixup") & (frame["epoch"] == "last")]
    assert chosen["mean"].tolist()[:2] == pytest.approx([11.0, 11.0])
    assert chosen["mean"].sum() == pytest.approx(100)
    assert (chosen["high"] - chosen["low"]).tolist() == pytest.approx([0.05] * 20)


def test_near_the_ends() -> None:
    assert near([1, 2, *[0] * 16, 3, 4]) == pytest.approx((30.0, 70.0))
    assert near([3, 0, 0, 0, 0, 0, 0, 0, 0, 7]) == pytest.approx((30.0, 70.0))


def test_the_figure_has_a_panel_for_each_reading(outcome: Outcome) -> None:
    figure = frequency_figure(frequency_table(outcome))
    letter, default = figure.axes
    assert [ax.get_title() for ax in figure.axes] == ["MetaMixUp (paper)", "MetaMixUp (default)"]
    drawn, learned = (c for c in default.containers if hasattr(c, "patches"))
    assert [bar.get_height() for bar in drawn] == pytest.approx([5.0] * 20)
    assert learned.patches[0].get_height() == pytest.approx(11.0)
    _, of_letter = (c for c in letter.containers if hasattr(c, "patches"))
    assert np.nonzero([bar.get_height() for bar in of_letter])[0].tolist() == list(range(10, 15))


def test_the_verdict(outcome: Outcome) -> None:
    text = lambda_frequency(outcome).markdown
    assert "- MetaMixUp (default), last epoch: the paper's figure is there. " in text
    assert "- MetaMixUp (paper), last epoch: the paper's figure is not there. 0.0 % [" in text
    # 20, 22, 24 %: half 4.303 · 2 / √3 = 4.97, t = 10.4, p = 0.0091, and the other end's is less.
    assert (
        "22.0 % [17.0, 27.0] of λ are within 0.1 of 0 (+12.0 [+7.0, +17.0], p (Holm) = 0.009, "
        "n = 3 against Beta(1, 1))" in text
    )


def test_one_end_is_not_both(make_outcome: Callable[..., Outcome]) -> None:
    given = {"metamixup": [ends(20, 2), ends(21, 3), ends(22, 2)], "metamixup-paper": [ends(9, 9)]}
    text = lambda_frequency(make_outcome(ROWS, given)).markdown
    assert "the paper's figure is there at one end only" in text
    assert "the paper's figure is not there. 9.0 % of λ are within 0.1 of 0 (−1.0, no test" in text


def test_a_share_that_is_not_told_apart_from_10_percent_shows_nothing(
    make_outcome: Callable[..., Outcome],
) -> None:
    """8, 13 and 12 % near 0 are 11 % in the mean, 9 to 13 near 1 as well."""
    given = {"metamixup": [ends(8, 9), ends(13, 13), ends(12, 11)]}
    text = lambda_frequency(make_outcome(ROWS, given)).markdown
    assert "- MetaMixUp (default), last epoch: the paper's figure is not there. 11.0 % [" in text

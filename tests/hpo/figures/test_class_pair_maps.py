from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hpo.figures.class_pair_maps import (
    agreement,
    class_pair_maps,
    maps_of,
    pair_figure,
    pair_table,
    spread,
)
from hpo.figures.rows import METAMIXUP
from hpo.outcome import Outcome
from hpo.plan import controls

PLACEBO = controls(METAMIXUP, plain=True)[0]
EARLY = [[0.5, 0.6, None], [0.4, 0.5, 0.5], [0.5, 0.5, 0.5]]
LATE = [[0.9, 0.7, 0.5], [0.3, 0.9, 0.5], [0.5, 0.5, 0.9]]


def recorded(*maps: Any, epochs: tuple[int, ...] = (1, 5)) -> dict[str, Any]:
    return {"findings": {"pair_epochs": list(epochs), "pair_lam": list(maps)}}


def shifted(by: float) -> list[list[float]]:
    return (np.array(LATE) + by).tolist()


@pytest.fixture
def outcome(make_outcome: Callable[..., Outcome]) -> Outcome:
    learned = [recorded(EARLY, LATE), recorded(EARLY, shifted(0.02)), recorded(EARLY, LATE)]
    return make_outcome([METAMIXUP, PLACEBO], {"metamixup": learned, "placebo": [{}]})


def test_means_over_seeds(outcome: Outcome) -> None:
    frame = pair_table(outcome)
    assert set(frame["method"]) == {"metamixup"}
    frame = frame.set_index(["epoch", "first_class", "second_class"])
    assert frame.loc[(5, "ant", "bee"), "mean"] == pytest.approx(0.7 + 0.02 / 3)
    assert frame.loc[(1, "bee", "ant"), "mean"] == pytest.approx(0.4)
    assert frame.loc[(1, "ant", "cow"), "n_seeds"] == 0
    assert math.isnan(frame.loc[(1, "ant", "cow"), "mean"])
    assert frame.loc[(5, "ant", "cow"), "n_seeds"] == 3


def test_epochs_that_not_every_seed_has_are_left_out(make_outcome: Callable[..., Outcome]) -> None:
    learned = [recorded(EARLY, LATE), recorded(EARLY, epochs=(1,))]
    outcome = make_outcome([METAMIXUP], {"metamixup": learned})
    assert list(maps_of(outcome, "digits", METAMIXUP)) == [1]


def test_the_figure_has_a_map_for_each_epoch(outcome: Outcome) -> None:
    figure = pair_figure(pair_table(outcome))
    early, late, bar = figure.axes
    assert early.get_title() == "MetaMixUp (default)\nepoch 1"
    shown = np.asarray(late.images[0].get_array())
    np.testing.assert_allclose(shown, np.array(LATE) + 0.02 / 3, rtol=1e-6)
    assert early.images[0].get_clim() == late.images[0].get_clim()
    assert [label.get_text() for label in early.get_yticklabels()] == ["ant", "bee", "cow"]
    assert [label.get_text() for label in late.get_xticklabels()] == ["ant", "bee", "cow"]
    assert bar.get_ylabel() == "mean λ"


def test_spread_and_agreement_by_hand() -> None:
    assert spread(np.array([[0.2, 0.4], [math.nan, 0.6]])) == pytest.approx(math.sqrt(0.08 / 3))
    one = np.array([[0.0, 1.0], [2.0, math.nan]])
    other = np.array([[1.0, 2.0], [0.0, 5.0]])
    # Of (0, 1, 2) and (1, 2, 0) about their means: −1·0 + 0·1 + 1·−1 over 2.
    assert agreement({0: one, 1: other}) == pytest.approx(-0.5)
    assert agreement({0: one, 1: 3 * one + 1}) == pytest.approx(1)
    assert agreement({0: one, 1: 3 * one + 1, 2: other}) == pytest.approx((1 - 0.5 - 0.5) / 3)
    assert math.isnan(agreement({0: one}))
    assert math.isnan(agreement({0: one, 1: np.ones((2, 2))}))


def test_the_text(outcome: Outcome) -> None:
    """In the last epoch 0.9, 0.92 and 0.9 within classes; the maps agree entirely."""
    text = class_pair_maps(outcome).markdown
    line = next(line for line in text.splitlines() if "|     5 |" in line)
    assert "0.907 ± 0.029" in line
    assert line.endswith("|     +1.00 |")


def test_without_maps_it_says_so(make_outcome: Callable[..., Outcome]) -> None:
    with pytest.raises(ValueError, match="no finished training has recorded"):
        class_pair_maps(make_outcome([METAMIXUP], {"metamixup": [{}]}))

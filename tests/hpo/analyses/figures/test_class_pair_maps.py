from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hpo.analyses.figures.class_pair_maps import (
    class_pair_maps,
    maps_of,
    pair_figure,
    pair_table,
    spread,
)
from hpo.report.outcome import Outcome
from hpo.study.named_rows import METAMIXUP
from hpo.study.rows import controls

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
    assert early.get_title() == "epoch 1\nseeds agree: +1.00"
    assert early.get_ylabel().startswith("MetaMixUp (default), digits")
    shown = np.asarray(late.images[0].get_array())
    np.testing.assert_allclose(shown, np.array(LATE) + 0.02 / 3, rtol=1e-6)
    reach = 0.4 + 0.02 / 3  # of the largest mean
    for ax in (early, late):
        assert ax.images[0].get_clim() == pytest.approx((0.5 - reach, 0.5 + reach))
    assert [label.get_text() for label in early.get_yticklabels()] == ["ant", "bee", "cow"]
    assert [label.get_text() for label in late.get_xticklabels()] == ["ant", "bee", "cow"]
    assert bar.get_ylabel() == "mean λ of 3 seeds"


def test_spread_by_hand() -> None:
    assert spread(np.array([[0.2, 0.4], [math.nan, 0.6]])) == pytest.approx(math.sqrt(0.08 / 3))


def test_the_text(outcome: Outcome) -> None:
    """In the last epoch 0.9, 0.92 and 0.9 within classes; the maps agree entirely."""
    text = class_pair_maps(outcome).markdown
    line = next(line for line in text.splitlines() if "|     5 |" in line)
    assert "0.907 ± 0.029" in line
    assert "| +1.00 [+1.00, +1.00] |" in line


def drawn(make: Callable[[np.random.Generator], np.ndarray], seed: int) -> list[dict[str, Any]]:
    """Maps of three seeds: what they have in common, and chance of each."""
    rng = np.random.default_rng(seed)
    common = make(rng)
    return [
        recorded((0.5 + common + 0.01 * rng.normal(size=(3, 3))).tolist(), epochs=(5,))
        for _ in range(3)
    ]


PAIRS = np.array([[0.0, 0.2, -0.2], [-0.2, 0.0, 0.2], [0.2, -0.2, 0.0]])
"""Rows and columns of sum 0."""


@pytest.mark.parametrize(
    ("learned", "said"),
    [
        (PAIRS, "is specific to the data, and to the pair of classes."),
        (
            np.add.outer([0.2, 0.0, -0.2], [-0.2, 0.0, 0.2]),
            "is specific to the two classes; that it is to their pair is not shown.",
        ),
        (np.zeros((3, 3)), "is not shown to be specific to the data."),
    ],
)
def test_what_is_said_of_maps(
    make_outcome: Callable[..., Outcome], learned: np.ndarray, said: str
) -> None:
    given = {
        "metamixup": drawn(lambda rng: learned, 1),
        "placebo": drawn(lambda rng: np.zeros((3, 3)), 2),
    }
    text = class_pair_maps(make_outcome([METAMIXUP, PLACEBO], given)).markdown
    assert f"- MetaMixUp (default), last epoch: λ {said}" in text
    assert "; the placebo's by " in text


def test_agreement_no_larger_than_the_placebos_says_nothing(
    make_outcome: Callable[..., Outcome],
) -> None:
    maps = drawn(lambda rng: PAIRS, 1)
    text = class_pair_maps(
        make_outcome([METAMIXUP, PLACEBO], {"metamixup": maps, "placebo": maps})
    ).markdown
    assert "last epoch: λ is not shown to be specific to the data." in text


def test_zero_has_no_minus(make_outcome: Callable[..., Outcome]) -> None:
    """Two maps, drawn until they agreed by a little less than 0."""
    one = [[-1.93, -3.02, 1.15], [1.56, 1.33, -0.43], [-0.07, -0.29, 1.37]]
    other = [[0.87, 0.06, 0.71], [1.36, 0.37, -1.09], [-0.07, -0.43, -1.59]]
    frame = pair_table(
        make_outcome([METAMIXUP], {"metamixup": [recorded(m, epochs=(5,)) for m in (one, other)]})
    )
    assert -0.005 < frame["agreement"].iloc[0] < 0
    assert pair_figure(frame).axes[0].get_title() == "epoch 5\nseeds agree: +0.00"


def test_without_maps_it_says_so(make_outcome: Callable[..., Outcome]) -> None:
    with pytest.raises(ValueError, match="no finished training has recorded"):
        class_pair_maps(make_outcome([METAMIXUP], {"metamixup": [{}]}))

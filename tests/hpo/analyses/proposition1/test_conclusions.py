"""Sentences from tables that are made by hand: each says what its numbers say, and no other."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from hpo.analyses.proposition1.comparison import CHANGE_COLUMNS, COMPARISON_COLUMNS
from hpo.analyses.proposition1.conclusions import conclusions

LABELS = {"none": "No MixUp", "beta-1": "MixUp"}


def compared(**changes: Any) -> pd.DataFrame:
    """MixUp beside no mixing, in both outputs; `changes` are of MixUp's logit."""
    usual = dict.fromkeys(COMPARISON_COLUMNS, 0.0) | {
        "dataset": "digits", "share": 0.6, "share_median": 0.1, "above": 0, "p_holm": 0.5,
        "kappa_over_none": 0.8,
    }  # fmt: skip
    none = usual | {"method": "none", "p_holm": math.nan, "kappa_over_none": math.nan}
    beta = usual | {"method": "beta-1"}
    lines = [
        none | {"output": "logit"},
        none | {"output": "probability"},
        beta | {"output": "logit"} | changes,
        beta | {"output": "probability"},
    ]
    return pd.DataFrame(lines, columns=list(COMPARISON_COLUMNS))


def changed(
    loss: tuple[float, float], probability: tuple[float, float], logit: tuple[float, float]
) -> pd.DataFrame:
    """Returns MixUp's quotients, each with its adjusted p."""
    lines = [
        {
            "dataset": "digits",
            "method": "beta-1",
            "quantity": quantity,
            "n_seeds": 3,
            "first_epoch": 1,
            "last_epoch": 20,
            "last_over_first": quotient,
            "ci_low": quotient / 2,
            "ci_high": quotient * 2,
            "p_value": p,
            "p_holm": p,
        }
        for quantity, (quotient, p) in (
            ("loss", loss), ("probability", probability), ("logit", logit),
        )
    ]  # fmt: skip
    return pd.DataFrame(lines, columns=list(CHANGE_COLUMNS))


FELL, GREW, STAYED = (0.25, 0.01), (4.0, 0.0001), (0.5, 0.2)


@pytest.mark.parametrize(
    ("loss", "probability", "logit", "said"),
    [
        (FELL, GREW, GREW, "While the loss fell κ grew: to minimize it did not control κ here."),
        (FELL, FELL, FELL, "While the loss fell κ fell: as the paper has it."),
        (FELL, STAYED, GREW, "κ of one output grew: its fall alone does not control κ."),
        (FELL, FELL, STAYED, "While the loss fell κ is not shown to fall with it."),
        (STAYED, GREW, GREW, "so this says nothing on what its fall does to κ."),
        (GREW, GREW, FELL, "so this says nothing on what its fall does to κ."),
    ],
)
def test_what_the_fall_of_the_loss_does(
    loss: tuple[float, float],
    probability: tuple[float, float],
    logit: tuple[float, float],
    said: str,
) -> None:
    _, along, *_ = conclusions(compared(), changed(loss, probability, logit), LABELS)
    assert along.startswith("- MixUp, from epoch 1 to 20: MixUp's ℓ1 loss ")
    assert along.endswith(said)


def test_the_numbers_stand_in_the_sentence() -> None:
    _, along, means, _ = conclusions(compared(), changed(FELL, GREW, STAYED), LABELS)
    assert means == (
        "- In the means over seeds, tested or not, policies with which the loss falls: 1; with 1 "
        "of these κ of the probability grows, with 0 κ of the logit."
    )
    assert len(conclusions(compared(), changed(GREW, GREW, GREW), LABELS)) == 3
    assert (
        "loss falls to 0.25× [0.12, 0.5], p (Holm) = 0.010, κ of the probability grows to" in along
    )
    assert "grows to 4× [2, 8], p (Holm) < 0.001 and κ of the logit is not told apart from" in along


def test_p2_and_how_tight_it_is() -> None:
    moves = changed(FELL, GREW, GREW)
    remaining, *_ = conclusions(compared(share_median=0.3, share=0.97), moves, LABELS)
    assert "(P2) holds for every pair in every look" in remaining
    assert "attains 0.10 to 0.30 of the κ of its segment" in remaining
    assert "at most 0.97): a loose bound, and" in remaining
    broken, *_ = conclusions(compared(above=3, share_median=0.7), moves, LABELS)
    assert "(P2) is above its estimated bound for 3 pairs" in broken
    assert "not a loose bound everywhere" in broken


def test_policies_against_no_mixing() -> None:
    moves = changed(FELL, GREW, GREW)
    *_, undecided = conclusions(compared(), moves, LABELS)
    assert undecided.endswith(
        "of 2 comparisons of a policy and an output κ is smaller in 0; larger in 0; not told apart "
        "in 2. In the means it is smaller in 2."
    )
    *_, smaller = conclusions(compared(p_holm=0.01), moves, LABELS)
    assert "κ is smaller in 1: MixUp (logit); larger in 0; not told apart in 1." in smaller
    *_, larger = conclusions(compared(p_holm=0.01, kappa_over_none=3.0), moves, LABELS)
    assert "κ is smaller in 0; larger in 1; not told apart in 1." in larger
    assert "In the means it is smaller in 1." in larger
    *_, last = conclusions(compared(p_holm=math.nan).iloc[:2], moves, LABELS)
    assert last.startswith("- In the means over seeds")

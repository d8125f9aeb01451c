from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from hpo.analyses.figures.intrusion_bars import (
    distances,
    intrusion_bars,
    intrusion_figure,
    intrusion_table,
)
from hpo.report.outcome import Outcome
from hpo.study.named_rows import METAMIXUP, MIXUP, NONE
from hpo.study.rows import controls

PLACEBO = controls(METAMIXUP, plain=True)[0]
ROWS = [NONE, MIXUP, METAMIXUP, PLACEBO]


def found(mean: float, minimum: float, scale: float, samples: int = 5) -> dict[str, Any]:
    intrusion = {"mean": mean, "minimum": minimum, "scale": scale, "real_mean": 4.0}
    return {"findings": {"intrusion": {**intrusion, "samples": samples}}}


MIXUP_SEEDS = [found(2.0 + d, 0.2 + d / 10, 4.0) for d in (0.0, 0.1, 0.2)]
# Farther by far, but only because all distances are five times as long.
STRETCHED = [found(9.0 + d, 0.9 + d / 10, 20.0) for d in (0.0, 0.5, 1.04)]
FARTHER = [found(9.0 + d, 0.9 + d / 10, 4.0) for d in (0.0, 0.1, 0.21)]
NEARER = [found(1.0 + d, 0.1 + d / 10, 4.0) for d in (0.0, 0.1, 0.21)]
# Farther on average, and the nearest one nearer.
BOTH = [found(9.0 + d, 0.1 + d / 10, 4.0) for d in (0.0, 0.1, 0.21)]


def outcome_of(make_outcome: Callable[..., Outcome], learned: list[dict[str, Any]]) -> Outcome:
    given = {"beta-1": MIXUP_SEEDS, "metamixup": learned, "placebo": MIXUP_SEEDS}
    return make_outcome(ROWS, given)


def test_quantities_by_hand(make_outcome: Callable[..., Outcome]) -> None:
    seeds = distances(outcome_of(make_outcome, STRETCHED), "digits", METAMIXUP)
    assert seeds[1] == pytest.approx(
        {
            "mean": 9.5,
            "minimum": 0.95,
            "relative_mean": 0.475,
            "relative_minimum": 0.0475,
            "mean_to_real": 2.375,
        }
    )


def test_trainings_without_a_third_class_or_an_analysis_do_not_count(
    make_outcome: Callable[..., Outcome],
) -> None:
    learned = [found(1.0, 1.0, 1.0, samples=0), {}, found(3.0, 1.0, 2.0)]
    outcome = outcome_of(make_outcome, learned)
    assert list(distances(outcome, "digits", METAMIXUP)) == [2]


@pytest.mark.parametrize(
    ("learned", "absolute", "relative"),
    [
        (FARTHER, "holds", "holds"),
        (STRETCHED, "holds", "is contradicted"),
        (NEARER, "is contradicted", "is contradicted"),
        (MIXUP_SEEDS, "is not supported", "is not supported"),
        (BOTH, "holds for one and not the other", "holds for one and not the other"),
    ],
)
def test_the_verdict(
    make_outcome: Callable[..., Outcome],
    learned: list[dict[str, Any]],
    absolute: str,
    relative: str,
) -> None:
    text = intrusion_bars(outcome_of(make_outcome, learned)).markdown
    claim, placebo = (line for line in text.splitlines() if line.startswith("- MetaMixUp"))
    for line in (claim, placebo):
        assert re.search(
            rf": {absolute} \(average .*\) in absolute distance; "
            rf"{relative} \(average .*\) in relative distance\.$",
            line,
        )
    assert "farther from other classes than those of MixUp (α = 1) (the paper's claim" in claim
    assert "farther from other classes than those of Placebo: " in placebo


def test_the_verdict_is_after_adjustment(make_outcome: Callable[..., Outcome]) -> None:
    """1, 1.4 and 0.6 farther on average: p = 0.05 / 1.18 alone, and far above as one of eight."""
    weak = [found(2.0 + d, 0.2, 4.0) for d in (1.0, 1.5, 0.8)]
    outcome = make_outcome([MIXUP, METAMIXUP], {"beta-1": MIXUP_SEEDS, "metamixup": weak})
    text = intrusion_bars(outcome).markdown
    assert "is not supported (average +1.000 [+0.006, +1.994], p (Holm) = 0.1" in text


def test_only_readings_are_held_against_the_claim(make_outcome: Callable[..., Outcome]) -> None:
    """AdaMixUp and the like are drawn, and say nothing of what MetaMixUp does."""
    text = intrusion_bars(outcome_of(make_outcome, FARTHER)).markdown
    assert not [line for line in text.splitlines() if line.startswith("- Placebo")]
    assert "MetaMixUp" not in intrusion_bars(make_outcome([NONE], {"none": FARTHER})).markdown


def test_the_figure_shows_means_and_intervals(make_outcome: Callable[..., Outcome]) -> None:
    frame = intrusion_table(outcome_of(make_outcome, STRETCHED))
    figure = intrusion_figure(frame)
    titles = ["average distance", "minimal distance", "average, relative", "minimal, relative"]
    assert [ax.get_title() for ax in figure.axes] == [f"digits: {title}" for title in titles]
    mean = 28.54 / 3
    expected = ([2.1, mean, 2.1], [0.21, mean / 10, 0.21], [0.525, mean / 20, 0.525])
    for ax, values in zip(figure.axes, expected, strict=False):
        drawn = [container.lines[0].get_xdata()[0] for container in ax.containers]
        assert drawn == pytest.approx(values)
        assert [text.get_text() for text in ax.texts] == ["no result"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "No MixUp", "MixUp (α = 1)", "MetaMixUp (default)", "Placebo",
    ]  # fmt: skip

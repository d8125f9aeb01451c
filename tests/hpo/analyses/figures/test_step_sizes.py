"""Which step size the meta-validation images choose, from hand-made records."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from core.meta.reading import SCORES
from core.policies import NoMix, PolicyConfig
from hpo.analyses.figures.step_sizes import chosen, step_sizes
from hpo.report.outcome import Extra, Outcome
from hpo.study.row_names import chosen_rows
from studies.step_sizes import rows

Run = Callable[[dict[str, list[tuple[float, float]]]], Extra]


@pytest.fixture
def run(make_record: Callable[..., Any], outcome_of: Callable[..., Outcome]) -> Run:
    """run({row: [(val_error, val_loss) of each seed]}) of digits."""
    policies: dict[str, PolicyConfig | None] = {row.row.key: row.policy for row in rows()}

    def of(values: dict[str, list[tuple[float, float]]]) -> Extra:
        records = [
            make_record(
                key, seed, policy=policies[key], test_error=0.0,
                history=[{"epoch": 1.0, "val_error": 99.0, "val_loss": 9.0},
                         {"epoch": 2.0, "val_error": error, "val_loss": loss}],
            )
            for key, seeds in values.items()
            for seed, (error, loss) in enumerate(seeds)
        ]  # fmt: skip
        return step_sizes(outcome_of(rows(), records, ["digits"]))

    return of


def test_the_lowest_error_is_chosen_and_held_against_the_default(run: Run) -> None:
    """Differences −1, −2, −3: mean −2, standard error 1/√3, t = 2√3 with 2 degrees of freedom."""
    extra = run(
        {
            "none": [(3.0, 0.1)],
            "metamixup": [(7.0, 0.5), (8.0, 0.6), (9.0, 0.7)],
            "metamixup-step-16": [(6.0, 0.9), (6.0, 0.9), (6.0, 0.9)],
            "scores": [(5.0, 0.2)],
        }
    )
    frame = pd.read_csv(extra.files[0])
    assert list(frame["policy"].unique()) == ["learned"]  # of scores there is one step
    assert list(frame["step_size"]) == [4.0, 16.0] * 2
    assert list(frame["default"]) == [True, False] * 2
    assert list(frame["mean"]) == pytest.approx([8.0, 6.0, 0.6, 0.9])
    error = frame.iloc[1]
    p = 1 - math.sqrt(12 / 14)
    assert list(error[["difference", "p_value", "p_holm"]]) == pytest.approx([-2.0, p, p], rel=1e-4)
    half = 4.302652729911275 / math.sqrt(3)
    assert error["diff_ci_low"] == pytest.approx(-2 - half, rel=1e-4)
    assert math.isnan(frame["difference"][0])
    assert chosen(frame[frame["policy"] == "learned"]) == 16.0
    assert (
        "| 4 (default) |               8.00 ± 2.48 |               0.600 ± 0.248 |"
        in extra.markdown
    )
    said = "lowest mean error has step 16; it is not told apart from that of the default (−2.00 ["
    assert said in extra.markdown
    assert extra.files[1].stat().st_size > 10_000


def test_of_equal_errors_the_lower_loss_is_chosen(run: Run) -> None:
    extra = run(
        {"scores-step-2": [(6.0, 0.9)], "scores": [(6.0, 0.4)], "scores-step-1": [(7.0, 0)]}
    )
    assert chosen(pd.read_csv(extra.files[0])) == SCORES.step_size
    assert f"the lowest mean error has step {SCORES.step_size:g}, the default." in extra.markdown


def test_a_step_that_lost_seeds_is_not_chosen(run: Run) -> None:
    """Its mean is that of other seeds, which were kinder."""
    whole = [(6.0, 0.4), (8.0, 0.6)]
    extra = run({"scores": whole, "scores-step-1": whole[:1], "scores-step-2": [(9.0, 0.1)] * 2})
    assert chosen(pd.read_csv(extra.files[0])) == SCORES.step_size
    assert f"the lowest mean error has step {SCORES.step_size:g}, the default." in extra.markdown


def test_a_default_that_is_told_apart_is_said_to_be(run: Run) -> None:
    steps = {"metamixup-step-1": 6.0, "metamixup": 8.0}
    noise = (0.0, 0.01, -0.01, 0.02)
    extra = run(
        {key: [(e + n * i, 1.0) for n in noise] for i, (key, e) in enumerate(steps.items())}
    )
    assert "has step 1; it is told apart from that of the default (−2.0" in extra.markdown
    without = run({"metamixup-step-1": [(6.0, 1.0)], "metamixup-step-2": [(7.0, 1.0)]})
    assert "has step 1; the default was not trained" in without.markdown


def test_a_varied_row_is_no_step(
    make_record: Callable[..., Any], outcome_of: Callable[..., Outcome]
) -> None:
    names = ["metamixup", "metamixup-step-1", "metamixup-x3", "metamixup-from-4", "scores-stop-0.5"]
    table = chosen_rows(rows(), names)
    history = [{"epoch": 1.0, "val_error": 1.0, "val_loss": 0.5}]
    records = [
        make_record(row.row.key, seed, policy=row.policy, test_error=0.0, history=history)
        for row in table
        for seed in range(2)
    ]
    frame = pd.read_csv(step_sizes(outcome_of(table, records, ["digits"])).files[0])
    assert {*frame["method"]} == {"metamixup", "metamixup-step-1"}


def test_nothing_is_said_where_no_policy_has_two_steps(run: Run) -> None:
    extra = run({"none": [(3.0, 0.1)], "metamixup": [(7.0, 0.5)]})
    assert (extra.markdown, extra.files) == ("", [])
    assert NoMix() in [row.policy for row in rows()]

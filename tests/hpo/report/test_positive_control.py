from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd
import pytest
from scipy import stats

from core.policies import Beta, LearnedConfig, NoMix
from hpo.report.outcome import Outcome
from hpo.report.positive_control import (
    PRIMARY,
    doubt,
    positive_control,
    settings_markdown,
    settings_table,
)
from hpo.study.comparisons import BEST_BETA, Comparisons
from hpo.study.rows import Row, StudyRow

NONE = StudyRow(Row("none", "No MixUp", "", "none"), NoMix())
BETA = StudyRow(Row("beta-1", "MixUp", "", "beta"), Beta(alpha=1.0))
OTHER = StudyRow(Row("beta-2", "MixUp 2", "", "beta"), Beta(alpha=2.0))
LEARNED = StudyRow(Row("metamixup", "MetaMixUp", "", "learned"), LearnedConfig())
ROWS = [NONE, BETA, OTHER, LEARNED]
DECLARED = Comparisons(primary=(("metamixup", BEST_BETA),))

MakeOutcome = Callable[..., Outcome]


def results(mean: list[float], validation: float) -> list[dict[str, float]]:
    return [{"test_error": error, "val_error": validation} for error in mean]


def made(make_outcome: MakeOutcome, none: list[float]) -> Outcome:
    return make_outcome(
        ROWS,
        {
            "none": results(none, 9.0),
            "beta-1": results([5.0, 6.0, 7.0], 3.0),
            "beta-2": results([1.0, 1.0, 1.0], 4.0),  # validation chooses, and chooses the other
            "metamixup": results([4.0, 5.5, 6.5], 5.0),
        },
    )


def lines(outcome: Outcome) -> pd.DataFrame:
    frame = settings_table(outcome.frame, outcome.records, DECLARED)
    return frame.set_index("comparison")


def test_both_comparisons_by_hand(make_outcome: MakeOutcome) -> None:
    frame = lines(made(make_outcome, [7.0, 8.0, 10.0]))
    positive, primary = frame.loc["positive control"], frame.loc[PRIMARY]
    assert (positive["method"], positive["other"]) == ("beta-1", "none")
    assert (primary["method"], primary["other"]) == ("metamixup", "beta-1")
    # -2, -2, -3: mean -7/3, s/sqrt(3) = 1/3, t = -7.
    assert positive["difference"] == pytest.approx(-7 / 3)
    assert positive["p_value"] == pytest.approx(1 - 7 / math.sqrt(2 + 49))
    assert positive["ci_high"] == pytest.approx(-7 / 3 + 4.302653 / 3, rel=1e-6)
    # -1, -0.5, -0.5: s = 1/sqrt(12); where the true difference is what it says, 80 % of samples
    # of three have a t beyond its bound.
    assert primary["difference"] == pytest.approx(-2 / 3)
    shift = primary["detectable"] * math.sqrt(3) * math.sqrt(12)
    bound = 4.302653
    truth = stats.nct.sf(bound, 2, shift) + stats.nct.cdf(-bound, 2, shift)
    assert truth == pytest.approx(0.8, abs=2e-3)


@pytest.mark.parametrize(
    ("none", "answers"),
    [
        ([7.0, 8.0, 10.0], True),
        ([5.5, 5.9, 7.2], False),  # a difference that three seeds do not show
        ([3.0, 4.1, 5.0], False),  # mixing harms, however surely
    ],
)
def test_a_setting_answers_where_mixing_is_seen_to_help(
    make_outcome: MakeOutcome, none: list[float], answers: bool
) -> None:
    outcome = made(make_outcome, none)
    frame = settings_table(outcome.frame, outcome.records, DECLARED)
    assert doubt(frame, "digits", "") == ("" if answers else "does not show")
    extra = positive_control(outcome)
    assert [path.name for path in extra.files] == ["figure-setting.csv"]
    assert extra.files[0].read_text().startswith("dataset,architecture,comparison,method")
    assert ("Yes." in extra.markdown) is answers
    assert ("say nothing" in extra.markdown) is not answers


@pytest.mark.parametrize("none", [[7.0], [7.0, 8.0, 9.0]])
def test_without_spread_nothing_is_tested(make_outcome: MakeOutcome, none: list[float]) -> None:
    """One seed, or the same difference with each: no p, no interval, no power."""
    outcome = made(make_outcome, none)
    text = positive_control(outcome).markdown
    said = "MixUp − No MixUp: −2.00, no test, n = {}. It cannot be tested with these seeds."
    assert said.format(len(none)) in text
    assert "say nothing" not in text
    alike = Comparisons(primary=(("beta-1", "none"),))
    frame = settings_table(outcome.frame, outcome.records, alike)
    [primary] = frame[frame["comparison"] == PRIMARY].to_dict("records")
    assert math.isnan(primary["detectable"])
    assert doubt(frame, "digits", "") == "cannot be tested with these seeds"
    text = settings_markdown(frame, outcome.labels)
    assert "power" not in text
    assert f"−2.00, no test, n = {len(none)}. Without spread it is not known" in text


@pytest.mark.parametrize(("detectable", "said"), [(0.4567, "0.46"), (7.0, "7"), (138.2, "140")])
def test_what_the_seeds_show_has_two_digits(
    make_outcome: MakeOutcome, detectable: float, said: str
) -> None:
    outcome = made(make_outcome, [7.0, 8.0, 10.0])
    frame = settings_table(outcome.frame, outcome.records, DECLARED).assign(detectable=detectable)
    text = settings_markdown(frame, outcome.labels)
    assert text.count(f"show a difference of {said} with 80 % power.") == 2


def test_a_search_that_found_no_mixing_is_no_control(make_outcome: MakeOutcome) -> None:
    searched = StudyRow(Row("beta-search", "α searched", "", "beta"), Beta(alpha=0.0))
    same = results([7.0, 8.0, 10.0], 2.0)
    of = {"none": same, "beta-search": same, "beta-1": results([5.0, 6.0, 7.0], 3.0)}
    outcome = make_outcome([NONE, searched, BETA], of)
    positive = lines(outcome).loc["positive control"]
    assert (positive["method"], positive["other"]) == ("beta-1", "none")
    del of["beta-1"]
    assert "positive control" not in lines(make_outcome([NONE, searched], of)).index


def test_what_is_not_there_is_not_told(make_outcome: MakeOutcome) -> None:
    outcome = make_outcome([BETA, LEARNED], {"beta-1": results([5.0, 6.0, 7.0], 3.0)})
    assert positive_control(outcome).markdown == ""
    frame = settings_table(outcome.frame, outcome.records, Comparisons())
    assert frame.empty
    assert doubt(frame, "digits", "") == ""


def test_a_study_may_name_its_own(make_outcome: MakeOutcome) -> None:
    outcome = made(make_outcome, [7.0, 8.0, 10.0])
    two = ("metamixup", "beta-2"), ("metamixup", BEST_BETA)
    declared = Comparisons(primary=two, positive=("beta-2", "none"))
    frame = settings_table(outcome.frame, outcome.records, declared)
    assert list(zip(frame["method"], frame["other"], strict=True)) == [
        ("beta-2", "none"),
        ("metamixup", "beta-2"),
        ("metamixup", "beta-1"),
    ]


def test_trainings_that_ended_no_better_than_a_guess_are_told(make_outcome: MakeOutcome) -> None:
    guess = 200 / 3  # of three classes, each as often
    rows = {"beta-1": results([5.0, guess, 80.0], 3.0), "beta-2": results([guess - 0.1], 3.0)}
    text = positive_control(make_outcome([BETA, OTHER, LEARNED], rows)).markdown
    assert "digits: 2 of 3 trainings of MixUp ended no better than a guess (66.67 %)" in text
    assert text.count("ended no better") == 1


def test_where_mixing_changes_nothing_at_all_the_setting_cannot_answer(
    make_outcome: MakeOutcome,
) -> None:
    """As where all trainings ended at a guess."""
    same = results([90.0, 90.0, 90.0], 90.0)
    outcome = make_outcome([NONE, BETA], {"none": same, "beta-1": same})
    assert lines(outcome).loc["positive control"]["difference"] == 0
    frame = settings_table(outcome.frame, outcome.records, Comparisons())
    assert doubt(frame, "digits", "") == "does not show"


def test_what_a_run_with_other_rows_left_does_not_stay_beside_this_one(
    make_outcome: MakeOutcome,
) -> None:
    alone = make_outcome([NONE], {"none": results([5.0, 6.0, 7.0], 3.0)})
    left = alone.file("setting.csv")
    left.touch()
    assert not positive_control(alone).files
    assert not left.exists()

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from core.policies import Beta, LearnedConfig, NoMix
from core.training.config import TrainingConfig
from hpo.cells.record import CellRecord
from hpo.report.controls import COLUMNS, compare_with_controls, controls_report
from hpo.report.outcome import Extra, Outcome
from hpo.report.table import build_table
from hpo.search.protocol import SearchSettings
from hpo.search.strategies import Listed
from hpo.study.plan import Plan
from hpo.study.recipes import SEARCHED_ALPHA
from hpo.study.rows import Row, StudyRow, controls

MakeRecord = Callable[..., CellRecord]

BASE = TrainingConfig("digits", "digits_cnn", NoMix())
BETA_1 = StudyRow(Row("beta-1", "Beta(1)", "", "beta"), Beta(alpha=1.0))
SEARCHED = StudyRow(Row("beta-search", "Searched", "", "beta"), SEARCHED_ALPHA)
MINE = StudyRow(Row("mine", "Mine", "", "learned"), LearnedConfig())
PLACEBO, FROZEN = controls(MINE)
ALONE = StudyRow(Row("alone", "Alone", "", "learned"), LearnedConfig())
ROWS = [BETA_1, SEARCHED, MINE, PLACEBO, FROZEN, ALONE]

ERRORS = {
    "mine": [5.0, 6.0, 7.0],
    "mine-placebo": [6.0, 7.5, 8.4],
    "mine-frozen": [5.5, 5.5, 7.5],
    "beta-1": [4.0, 4.0, 4.0],
    "beta-search": [5.3, 6.5, 7.4],
    "alone": [6.3, 7.5, 8.4],
}
"""Of each row with the seeds 0, 1 and 2. The search's row has the lowest validation error."""

COSTS = {"mine": 45.0, "mine-placebo": 44.0, "mine-frozen": 10.0, "alone": 45.0}


def outcome(output: Path, records: list[CellRecord], rows: list[StudyRow] = ROWS) -> Outcome:
    datasets = list(dict.fromkeys(record.cell.dataset for record in records))
    base = {name: replace(BASE, dataset=name) for name in datasets}
    plan = Plan("mine", rows, datasets, range(3), base, SearchSettings(trials=2), budget=4.0)
    frame = build_table(records, [row.row for row in plan.table_rows], datasets)
    return Outcome(plan, records, {}, frame, output)


@pytest.fixture
def make_records(make_record: MakeRecord) -> Callable[..., list[CellRecord]]:
    def make(dataset: str = "digits", **changes: list[float]) -> list[CellRecord]:
        records = [
            make_record(
                method,
                seed,
                dataset=dataset,
                test_error=error,
                val_error=3.0 if method == "beta-search" else 4.0,
                train_seconds=COSTS.get(method, 10.0),
                samples_seen=100 * int(COSTS.get(method, 10.0)),
            )
            for method, errors in {**ERRORS, **changes}.items()
            for seed, error in enumerate(errors)
        ]
        trials = [
            make_record(
                "beta-search", seed, dataset=dataset, purpose="search", train_seconds=10.0,
                samples_seen=500, status="pruned",
            )
            for seed in (50, 51)
        ]  # fmt: skip
        return records + trials

    return make


MakeRecords = Callable[..., list[CellRecord]]


def table(extra: Extra) -> pd.DataFrame:
    [path] = extra.files
    frame = pd.read_csv(path, keep_default_na=False, na_values={c: [""] for c in COLUMNS[4:]})
    return frame.set_index(["dataset", "method", "control"])


def of(frame: pd.DataFrame, method: str) -> pd.DataFrame:
    """Returns the lines of a method on digits, by control."""
    return frame.xs("digits").xs(method)


def paired_by_hand(differences: list[float]) -> dict[str, float]:
    """Of three: Student's t with two degrees of freedom has p = 1 − |t|/√(t² + 2)."""
    mean = sum(differences) / 3
    standard_error = math.sqrt(sum((d - mean) ** 2 for d in differences) / 2 / 3)
    t = abs(mean) / standard_error
    return {
        "difference": mean,
        "ci_low": mean - 4.302653 * standard_error,
        "ci_high": mean + 4.302653 * standard_error,
        "p_value": 1 - t / math.sqrt(t * t + 2),
    }


def test_each_control_by_hand(tmp_path: Path, make_records: MakeRecords) -> None:
    extra = controls_report(outcome(tmp_path, make_records()))
    assert [path.name for path in extra.files] == ["mine-controls.csv"]
    frame = table(extra)
    assert list(frame.columns) == list(COLUMNS[3:])
    assert [tuple(index) for index in frame.index] == [
        ("digits", method, control)
        for method in ("mine", "alone")
        for control in ("placebo", "frozen", "best beta")
    ]
    differences = {
        ("mine", "placebo"): ("mine-placebo", [-1.0, -1.5, -1.4]),
        ("mine", "frozen"): ("mine-frozen", [-0.5, 0.5, -0.5]),
        # Not beta-1, whose test errors are lower: the validation images choose.
        ("mine", "best beta"): ("beta-search", [-0.3, -0.5, -0.4]),
        ("alone", "best beta"): ("beta-search", [1.0, 1.0, 1.0]),
    }
    for (method, control), (other, by_seed) in differences.items():
        line = frame.loc[("digits", method, control)]
        assert (line["control_method"], line["n_seeds"]) == (other, 3)
        if method == "mine":
            for name, value in paired_by_hand(by_seed).items():
                assert line[name] == pytest.approx(value, abs=1e-4), (control, name)
    alone = of(frame, "alone")
    assert alone.loc["best beta", "difference"] == 1.0
    assert math.isnan(alone.loc["best beta", "p_value"])  # no spread, no test
    for control in ("placebo", "frozen"):
        assert alone.loc[control, "control_method"] == ""
        assert alone.loc[control, "n_seeds"] == 0
        assert alone.loc[control, ["difference", "p_value", "seconds_ratio"]].isna().all()


def test_each_comparison_has_one_p_and_controls_are_in_no_family(
    tmp_path: Path, make_records: MakeRecords
) -> None:
    other = make_records("mnist", **{"mine-placebo": [5.9, 7.0, 8.2], "alone": [6.2, 7.5, 8.4]})
    made = outcome(tmp_path, make_records() + other)
    frame = table(controls_report(made))
    stated = made.frame.set_index(["dataset", "method"])
    for (dataset, method, control), line in frame.iterrows():
        expected = stated.loc[(dataset, method), "p_holm"] if control == "best beta" else None
        expected = line["p_value"] if expected is None else expected
        assert line["p_holm"] == pytest.approx(expected, nan_ok=True), (dataset, method, control)
    # On digits two differences from the best Beta have a p, the family: mine and beta-1.
    mine, beta = (paired_by_hand(d)["p_value"] for d in ([-0.3, -0.5, -0.4], [-1.3, -2.5, -3.4]))
    assert mine < beta
    assert frame.loc[("digits", "mine", "best beta"), "p_holm"] == pytest.approx(2 * mine)
    assert stated.loc[("digits", "beta-1"), "p_holm"] == pytest.approx(max(beta, 2 * mine))


def test_a_setting_that_cannot_answer_gives_no_verdict(
    tmp_path: Path, make_records: MakeRecords, make_record: MakeRecord
) -> None:
    none = StudyRow(Row("none", "No MixUp", "", "none"), NoMix())
    worse = {"mine-placebo": [5.1, 5.9, 7.2]}

    def said(errors: list[float]) -> str:
        plain = [
            make_record("none", seed, test_error=error, val_error=9.0)
            for seed, error in enumerate(errors)
        ]
        made = outcome(tmp_path, [*plain, *make_records(**worse)], [none, *ROWS])
        [line] = [x for x in controls_report(made).markdown.splitlines() if "- Mine" in x]
        return line

    assert said([7.3, 8.6, 9.5]) == (
        "- Mine: fewer errors, with p (Holm) < 0.05, than the best Beta."
    )
    assert said([5.4, 6.4, 7.5]) == (
        "- Mine: this setting cannot answer, as its positive control does not show; fewer errors "
        "than the best Beta."
    )


def test_costs_hold_what_was_needed_before(tmp_path: Path, make_records: MakeRecords) -> None:
    """The search took two trials of 10 s, and a frozen row needs the training it draws from."""
    mine = of(table(controls_report(outcome(tmp_path, make_records()))), "mine")
    assert mine["seconds_ratio"].to_dict() == pytest.approx(
        {"placebo": 45 / 44, "frozen": 45 / 55, "best beta": 45 / 30}, abs=1e-3
    )
    assert mine["samples_ratio"].to_dict() == pytest.approx(
        {"placebo": 45 / 44, "frozen": 45 / 55, "best beta": 4500 / 2000}, abs=1e-3
    )


def test_seeds_that_one_of_them_lacks_do_not_count(
    tmp_path: Path, make_records: MakeRecords, make_record: MakeRecord
) -> None:
    records = [
        record
        for record in make_records()
        if (record.cell.method, record.cell.seed) != ("mine-placebo", 1)
    ]
    records.append(make_record("mine-placebo", 1, status="diverged", error="NaN"))
    line = table(controls_report(outcome(tmp_path, records))).loc[("digits", "mine", "placebo")]
    assert line["n_seeds"] == 2
    assert line["difference"] == pytest.approx(-1.2)


def test_the_verdict_counts_the_trainings_of_the_row_that_failed(
    tmp_path: Path, make_records: MakeRecords, make_record: MakeRecord
) -> None:
    def said(lost: int) -> str:
        failed = [make_record("mine", seed, status="diverged", error="NaN") for seed in range(lost)]
        there = [r for r in make_records() if r.cell.method != "mine" or r.cell.seed >= lost]
        text = controls_report(outcome(tmp_path, [*there, *failed])).markdown
        [line] = [line for line in text.splitlines() if line.startswith("- Mine")]
        return line

    assert said(1) == (
        "- Mine: fewer errors, with p (Holm) < 0.05, than the placebo; over 2 of 3 seeds: "
        "1 training of the row failed."
    )
    assert said(3) == "- Mine: no result, all 3 trainings failed."


def test_the_table_for_people(tmp_path: Path, make_records: MakeRecords) -> None:
    text = controls_report(outcome(tmp_path, make_records())).markdown
    lines = text.splitlines()
    assert lines[0] == "## Does learning pay?"
    header, rule, mine, alone = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:6]
    )
    assert header == [
        "learned", "− placebo", "p (Holm)", "− frozen λ", "p (Holm)", "− best Beta", "p (Holm)",
        "time", "samples",
    ]  # fmt: skip
    assert set("".join(rule)) == {"-", ":"}
    p = [paired_by_hand(d)["p_value"] for d in ([-1.0, -1.5, -1.4], [-0.3, -0.5, -0.4])]
    assert mine == [
        "Mine", "−1.30 [−1.96, −0.64]", f"{p[0]:.3f}", "−0.17 [−1.60, +1.27]", "0.667",
        "−0.40 [−0.65, −0.15]", f"{2 * p[1]:.3f}", "1.50×", "2.25×",
    ]  # fmt: skip
    assert alone == ["Alone", "–", "–", "–", "–", "+1.00", "–", "1.50×", "2.25×"]
    said = [line for line in lines if line.startswith("- Mine")]
    assert said == [
        "- Mine: fewer errors, with p (Holm) < 0.05, than the placebo and the best Beta."
    ]
    assert not [line for line in lines if line.startswith("- Alone")]


def test_a_counterpart_stands_in_for_the_best_beta(
    tmp_path: Path, make_records: MakeRecords
) -> None:
    """beta-1 is not the best Beta, and is what this row is held against."""
    mine = replace(MINE, row=replace(MINE.row, counterpart="beta-1"))
    other = replace(ALONE, row=replace(ALONE.row, counterpart="not-there"))
    rows = [mine if row is MINE else other if row is ALONE else row for row in ROWS]
    extra = controls_report(outcome(tmp_path, make_records(), rows))
    frame = table(extra)
    assert list(dict.fromkeys(frame.index.get_level_values("method"))) == ["mine"]
    lines = of(frame, "mine")
    assert list(lines.index) == ["placebo", "frozen", "counterpart"]
    assert lines.loc["counterpart", "control_method"] == "beta-1"
    assert lines.loc["counterpart", "difference"] == pytest.approx(2.0)
    assert "− its counterpart" in extra.markdown
    assert "best Beta" not in extra.markdown
    assert extra.metrics["mine", "digits"]["minus_counterpart"] == pytest.approx(2.0)


def test_the_verdict_names_the_counterpart_in_a_sentence(
    tmp_path: Path, make_records: MakeRecords
) -> None:
    mine = replace(MINE, row=replace(MINE.row, counterpart="alone"))
    rows = [mine if row is MINE else row for row in ROWS]
    text = controls_report(outcome(tmp_path, make_records(), rows)).markdown
    assert (
        "- Mine: fewer errors, with p (Holm) < 0.05, than the placebo and its counterpart." in text
    )


def test_more_errors_are_no_success_however_sure(tmp_path: Path, make_records: MakeRecords) -> None:
    worse = {"mine-placebo": [1.0, 2.001, 3.002]}
    text = controls_report(outcome(tmp_path, make_records(**worse))).markdown
    assert "- Mine: fewer errors, with p (Holm) < 0.05, than the best Beta." in text


def test_data_sets_have_tables_of_their_own(tmp_path: Path, make_records: MakeRecords) -> None:
    records = make_records() + make_records("mnist")
    text = controls_report(outcome(tmp_path, records)).markdown
    assert text.count("| Mine") == 2
    assert text.index("### digits") < text.index("### mnist")
    assert "### " not in controls_report(outcome(tmp_path, make_records())).markdown


def test_what_has_no_results_yet_is_a_dash(tmp_path: Path, make_records: MakeRecords) -> None:
    records = [r for r in make_records() if r.cell.method in ("mine", "mine-placebo", "beta-1")]
    extra = controls_report(outcome(tmp_path, records))
    mine = of(table(extra), "mine")
    assert mine.loc["frozen", "control_method"] == "mine-frozen"
    assert mine.loc["frozen", "n_seeds"] == 0
    assert mine.loc["best beta", "control_method"] == "beta-1"
    assert "not there: frozen λ." in extra.markdown
    nothing = controls_report(outcome(tmp_path, [r for r in records if r.cell.method == "beta-1"]))
    assert table(nothing)["n_seeds"].tolist() == [0] * 6


def test_any_row_with_a_control_or_a_counterpart_is_held_against_it(
    tmp_path: Path, make_records: MakeRecords
) -> None:
    """Neither row is of the family "learned", and one has its best Beta, one a counterpart."""
    mine = replace(MINE, row=replace(MINE.row, family="extra"))
    alone = replace(ALONE, row=replace(ALONE.row, family="extra", counterpart="beta-1"))
    rows = [BETA_1, SEARCHED, mine, FROZEN, alone, PLACEBO]
    rows[-1] = replace(PLACEBO, row=replace(PLACEBO.row, control_of=None))
    extra = controls_report(outcome(tmp_path, make_records(), rows))
    frame = table(extra)
    assert list(dict.fromkeys(frame.index.get_level_values("method"))) == ["mine", "alone"]
    assert list(of(frame, "mine")["control_method"]) == ["", "mine-frozen", "beta-search"]
    assert list(of(frame, "alone")["control_method"]) == ["", "", "beta-1"]
    assert of(frame, "alone").loc["counterpart", "difference"] == pytest.approx(3.4)
    for stated in ("best Beta: as in", "its counterpart: the row", "its search included or its"):
        assert stated in extra.markdown


def test_a_strategy_that_learns_has_no_line(tmp_path: Path, make_records: MakeRecords) -> None:
    """It stands beside the table, and leaves the controls of its rows as they are."""
    strategy = StudyRow(Row("once", "Once", "", "learned"), Listed((LearnedConfig(),)))
    alone = controls_report(outcome(tmp_path, make_records()))
    beside = controls_report(outcome(tmp_path, make_records(), [*ROWS, strategy]))
    assert beside.markdown == alone.markdown


def test_a_study_that_learns_nothing_has_no_such_table(
    tmp_path: Path, make_records: MakeRecords
) -> None:
    records = [r for r in make_records() if r.cell.method.startswith("beta")]
    assert controls_report(outcome(tmp_path, records, [BETA_1, SEARCHED])) == Extra()
    assert not list(tmp_path.iterdir())


def test_a_learned_row_with_nothing_to_be_held_against_is_left_out(
    tmp_path: Path, make_records: MakeRecords
) -> None:
    records = [r for r in make_records() if r.cell.method in ("alone", "mine", "mine-placebo")]
    rows = [row for row in ROWS if row.row.family != "beta"]
    frame = table(controls_report(outcome(tmp_path, records, rows)))
    assert list(dict.fromkeys(frame.index.get_level_values("method"))) == ["mine"]


def test_numbers_for_the_summary_runs(tmp_path: Path, make_records: MakeRecords) -> None:
    extra = controls_report(outcome(tmp_path, make_records()))
    assert set(extra.metrics) == {("mine", "digits"), ("alone", "digits")}
    mine: dict[str, Any] = dict(extra.metrics["mine", "digits"])
    assert {name for name in mine if name.startswith("minus_")} == {
        "minus_placebo", "minus_frozen", "minus_best_beta",
    }  # fmt: skip
    assert mine["minus_placebo"] == pytest.approx(-1.3)
    assert mine["seconds_over_best_beta"] == pytest.approx(1.5)
    assert 0 < mine["p_holm_placebo"] < 0.05


def test_the_frame_is_the_same_in_any_order_of_records(
    tmp_path: Path, make_records: MakeRecords
) -> None:
    given = outcome(tmp_path, make_records())
    rows = [row.row for row in ROWS]
    first = compare_with_controls(given.records, rows, given.frame)
    again = compare_with_controls(list(reversed(given.records)), rows, given.frame)
    pd.testing.assert_frame_equal(first, again)


def test_what_a_run_with_other_rows_left_does_not_stay_beside_this_one(
    tmp_path: Path, make_records: MakeRecords
) -> None:
    [path] = controls_report(outcome(tmp_path, make_records())).files
    assert path.exists()
    assert not controls_report(outcome(tmp_path, make_records(), [BETA_1])).files
    assert not path.exists()

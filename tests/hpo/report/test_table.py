from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from core.policies import Beta
from hpo.cells.record import CellRecord
from hpo.cells.store import CellStore
from hpo.report.records import load_records
from hpo.report.table import COLUMNS, build_table, summary_rows, to_markdown, write_report
from hpo.study.comparisons import BEST_BETA, Comparisons
from hpo.study.recipes import FrozenFrom
from hpo.study.rows import Row, StudyRow
from hpo.study.variants import with_meta_images

MakeRecord = Callable[..., CellRecord]
T_2 = 4.302653  # two-sided 95 % quantile of Student's t with 2 degrees of freedom
NONE = Row("none", "No MixUp", "", "none", {"digits": 5.53})
BETA_1 = Row("beta-1", "MixUp (α = 1)", "alpha=1", "beta")
BETA_2 = Row("beta-2", "MixUp (α = 2)", "alpha=2", "beta")
OF_SEARCH: dict[str, Any] = {"search": "beta-search", "searched": ("alpha",)}
SEARCHED = Row("beta-search", "MixUp, searched", "alpha by search", "beta", **OF_SEARCH)
SEARCHED_META = Row(
    "beta-search+meta", "MixUp, searched, more data", "alpha by search", "extra", **OF_SEARCH
)
LEARNED = Row("metamixup", "MetaMixUp", "reading=default", "learned", {"digits": 2.48})
ROWS = [NONE, BETA_1, BETA_2, LEARNED]


@pytest.fixture
def records(make_record: MakeRecord) -> list[CellRecord]:
    """Three seeds of four rows; beta-2 is better on validation, beta-1 on the test set."""
    test = {
        "none": [6.0, 7.0, 8.0],
        "beta-1": [4.0, 5.0, 6.0],
        "beta-2": [5.0, 6.0, 7.0],
        "metamixup": [4.0, 4.0, 4.0],
    }
    validation = {"none": 8.0, "beta-1": 7.0, "beta-2": 6.0, "metamixup": 1.0}
    seconds = {"none": 10.0, "beta-1": 10.0, "beta-2": 10.0, "metamixup": 45.0}
    return [
        make_record(
            method,
            seed,
            test_error=error,
            val_error=validation[method],
            train_seconds=seconds[method] + seed,
            samples_seen=1000,
        )
        for method, errors in test.items()
        for seed, error in enumerate(errors)
    ]


def line(frame: pd.DataFrame, method: str, dataset: str = "digits") -> dict[str, object]:
    [actual] = frame[(frame.method == method) & (frame.dataset == dataset)].to_dict("records")
    return actual


def test_columns_begin_as_the_csv_promises(records: list[CellRecord]) -> None:
    frame = build_table(records, ROWS, ["digits"])
    promised = (
        "dataset, method, setting, n_seeds, mean_error, ci_low, ci_high, paper_error, "
        "train_seconds, samples_seen"
    )
    assert list(frame.columns[:10]) == promised.split(", ")
    assert tuple(frame.columns) == COLUMNS
    assert list(frame.method) == [row.key for row in ROWS]


def test_error_interval_and_cost_by_hand(records: list[CellRecord]) -> None:
    none = line(build_table(records, ROWS, ["digits"]), "none")
    # 6, 7, 8: s = 1, half width t / sqrt(3).
    half = T_2 / math.sqrt(3)
    assert none["n_seeds"] == 3
    assert none["mean_error"] == pytest.approx(7.0)
    assert none["ci_low"] == pytest.approx(7.0 - half, rel=1e-6)
    assert none["ci_high"] == pytest.approx(7.0 + half, rel=1e-6)
    assert none["paper_error"] == 5.53
    assert none["train_seconds"] == pytest.approx(11.0)  # 10, 11, 12
    assert none["samples_seen"] == pytest.approx(1000.0)
    assert none["search_seconds"] == 0.0


def test_validation_not_test_chooses_the_best_beta(records: list[CellRecord]) -> None:
    frame = build_table(records, ROWS, ["digits"])
    assert list(frame[frame.best_beta].method) == ["beta-2"]
    best = line(frame, "beta-2")
    assert math.isnan(best["diff_vs_best_beta"])  # type: ignore[arg-type]
    assert math.isnan(best["p_holm"])  # type: ignore[arg-type]


def test_paired_difference_by_hand(records: list[CellRecord]) -> None:
    frame = build_table(records, ROWS, ["digits"])
    # metamixup - beta-2: -1, -2, -3; mean -2, s/sqrt(3) = 1/sqrt(3), t = -2 sqrt(3).
    learned = line(frame, "metamixup")
    half = T_2 / math.sqrt(3)
    assert learned["diff_vs_best_beta"] == pytest.approx(-2.0)
    assert learned["diff_ci_low"] == pytest.approx(-2.0 - half, rel=1e-6)
    assert learned["diff_ci_high"] == pytest.approx(-2.0 + half, rel=1e-6)
    # With 2 degrees of freedom P(|T| > t) = 1 - t / sqrt(2 + t^2).
    t = 2 * math.sqrt(3)
    p_value = 1 - t / math.sqrt(2 + t * t)
    assert learned["p_value"] == pytest.approx(p_value)
    # none and beta-1 differ by a constant: no p-value, so the family has one comparison.
    assert math.isnan(line(frame, "none")["p_value"])  # type: ignore[arg-type]
    assert learned["p_holm"] == pytest.approx(p_value)


def test_holm_is_applied_within_a_data_set(make_record: MakeRecord) -> None:
    # Differences to beta-1 (all 0): beta-2 1, 2, 3 and metamixup 2, 3, 5, on two data sets.
    errors = {"beta-1": [0.0, 0.0, 0.0], "beta-2": [1.0, 2.0, 3.0], "metamixup": [2.0, 3.0, 5.0]}
    validation = {method: len(method) + values[0] for method, values in errors.items()}
    records = [
        make_record(method, seed, dataset=data, test_error=error, val_error=validation[method])
        for data in ("digits", "mnist")
        for method, values in errors.items()
        for seed, error in enumerate(values)
    ]
    frame = build_table(records, [BETA_2, BETA_1, LEARNED], ["digits", "mnist"])

    def p_of(mean: float, variance: float) -> float:
        t = mean / math.sqrt(variance / 3)
        return 1 - t / math.sqrt(2 + t * t)

    larger = p_of(2.0, 1.0)
    smaller = p_of(10 / 3, 7 / 3)
    for dataset in ("digits", "mnist"):
        assert line(frame, "metamixup", dataset)["p_value"] == pytest.approx(smaller)
        assert line(frame, "metamixup", dataset)["p_holm"] == pytest.approx(2 * smaller)
        assert line(frame, "beta-2", dataset)["p_holm"] == pytest.approx(max(larger, 2 * smaller))
    # Where it is the comparison that the study is made for, its p stands, and so does the other's.
    declared = Comparisons(primary=(("metamixup", BEST_BETA),))
    frame = build_table(records, [BETA_2, BETA_1, LEARNED], ["digits"], declared)
    assert line(frame, "metamixup")["p_holm"] == pytest.approx(smaller)
    assert line(frame, "beta-2")["p_holm"] == pytest.approx(larger)


def test_no_mixing_is_a_constant_beta_too(make_record: MakeRecord) -> None:
    values = {"none": (5.0, 5.0), "beta-1": (6.0, 7.0), "beta-2": (8.0, 6.0)}
    records = [
        make_record(method, seed, test_error=test + seed * (1 + len(method) % 4), val_error=val)
        for method, (test, val) in values.items()
        for seed in range(3)
    ]
    frame = build_table(records, [NONE, BETA_1, BETA_2], ["digits"])
    assert list(frame[frame.best_beta].method) == ["none"]
    # The positive control, the better Beta against none, is a family of its own.
    first, second = line(frame, "beta-1"), line(frame, "beta-2")
    assert second["p_holm"] == second["p_value"]
    assert first["p_holm"] == first["p_value"]


def test_pairs_are_the_seeds_that_both_have(make_record: MakeRecord) -> None:
    records = [make_record("beta-1", seed, test_error=float(seed)) for seed in (0, 1, 2)]
    records += [make_record("metamixup", seed, test_error=seed + 0.5 * seed) for seed in (1, 2, 7)]
    learned = line(build_table(records, [BETA_1, LEARNED], ["digits"]), "metamixup")
    # Shared seeds 1 and 2: differences 0.5 and 1.
    assert learned["diff_vs_best_beta"] == pytest.approx(0.75)
    assert learned["mean_error"] == pytest.approx((1.5 + 3.0 + 10.5) / 3)


def test_trials_of_several_trainings_are_counted_as_trials(make_record: MakeRecord) -> None:
    trials = [
        make_record("beta-search", seed, purpose="search", policy=Beta(alpha=alpha))
        for alpha in (0.5, 2.0)
        for seed in (7, 8, 9)
    ]
    finals = [make_record("beta-search", 0, policy=Beta(alpha=0.5))]
    searched = line(build_table(trials + finals, [SEARCHED], ["digits"]), "beta-search")
    assert searched["setting"] == "alpha=0.5 (search of 2 trials, 6 trainings)"


def test_a_searched_row_bears_the_whole_search(make_record: MakeRecord) -> None:
    policy = Beta(alpha=0.21349)
    trials = [
        make_record(
            "beta-search",
            9,
            purpose="search",
            status=status,
            policy=Beta(alpha=alpha),
            train_seconds=seconds,
            samples_seen=samples,
        )
        for status, alpha, seconds, samples in [
            ("finished", 0.21349, 10.0, 1000),
            ("pruned", 3.0, 4.0, 400),
            ("diverged", 9.0, 1.0, 7),
        ]
    ]
    finals = [make_record("beta-search", seed, policy=policy) for seed in (0, 1)]
    finals += [make_record("beta-search+meta", 0, policy=policy, train_seconds=20.0)]
    finals += [make_record("beta-1", seed) for seed in (0, 1)]
    frame = build_table(trials + finals, [BETA_1, SEARCHED, SEARCHED_META], ["digits"])
    searched = line(frame, "beta-search")
    assert searched["n_seeds"] == 2
    assert searched["setting"] == "alpha=0.213 (search of 3 trials)"
    assert searched["train_seconds"] == pytest.approx(10.0 + 15.0)
    assert searched["search_seconds"] == pytest.approx(15.0)
    assert searched["samples_seen"] == pytest.approx(1000 + 1407)
    assert searched["search_samples"] == pytest.approx(1407)
    assert line(frame, "beta-search+meta")["train_seconds"] == pytest.approx(20.0 + 15.0)
    assert line(frame, "beta-1")["train_seconds"] == pytest.approx(10.0)
    assert "MixUp, searched: alpha=0.213 (search of 3 trials)" in to_markdown(frame)


def test_failed_and_missing_cells_are_shown(make_record: MakeRecord) -> None:
    records = [make_record("none", seed, test_error=4.0 + seed) for seed in (0, 1)]
    records += [
        make_record("beta-1", 0, test_error=1.0),
        make_record("beta-1", 1, status="diverged", error="loss became nan"),
    ]
    frame = build_table(records, [NONE, BETA_1, LEARNED], ["digits", "mnist"])
    assert len(frame) == 6
    beta, learned = line(frame, "beta-1"), line(frame, "metamixup")
    assert (beta["n_seeds"], beta["n_failed"]) == (1, 1)
    assert math.isnan(beta["ci_low"])  # type: ignore[arg-type]
    assert (learned["n_seeds"], learned["n_failed"]) == (0, 0)
    assert math.isnan(learned["mean_error"])  # type: ignore[arg-type]
    text = to_markdown(frame)
    assert "MixUp (α = 1): of 2 trainings 1 failed." in text
    assert "MetaMixUp: of 2 trainings 2 missing." in text
    [row] = [row for row in text.splitlines() if row.startswith("| MetaMixUp")][:1]
    assert [cell.strip() for cell in row.strip("|").split("|")][1:3] == ["–", "0"]


def test_a_beta_row_that_lost_seeds_is_not_the_best(make_record: MakeRecord) -> None:
    records = [make_record("beta-1", seed, val_error=9.0) for seed in (0, 1)]
    records += [
        make_record("beta-2", 0, val_error=1.0),
        make_record("beta-2", 1, status="diverged"),
    ]
    frame = build_table(records, [BETA_1, BETA_2], ["digits"])
    assert list(frame[frame.best_beta].method) == ["beta-1"]


def test_without_a_beta_that_finished_no_mixing_is_the_best(make_record: MakeRecord) -> None:
    records = [make_record("none", seed, test_error=5.0 + seed) for seed in range(3)]
    records += [make_record("metamixup", seed, test_error=4.0 + 2 * seed) for seed in range(3)]
    frame = build_table(records, [NONE, BETA_1, LEARNED], ["digits"])
    assert list(frame[frame.best_beta].method) == ["none"]
    learned = line(frame, "metamixup")  # differences −1, 0 and 1
    assert (learned["diff_vs_best_beta"], learned["p_holm"]) == (0.0, pytest.approx(1.0))
    assert math.isnan(line(frame, "beta-1")["p_holm"])  # type: ignore[arg-type]


def test_without_a_constant_the_comparison_stays_empty(make_record: MakeRecord) -> None:
    frame = build_table([make_record("metamixup")], [NONE, BETA_1, LEARNED], ["digits"])
    assert not frame.best_beta.any()
    assert frame.diff_vs_best_beta.isna().all()
    assert "MetaMixUp" in to_markdown(frame)


def test_two_configurations_of_one_cell_are_refused(make_record: MakeRecord) -> None:
    short, long = make_record("beta-1", 0, epochs=2), make_record("beta-1", 0, epochs=3)
    with pytest.raises(ValueError, match="two configurations of beta-1 on digits with seed 0"):
        build_table([short, long], [BETA_1], ["digits"])


def test_records_come_from_the_store(tmp_path: Path, make_record: MakeRecord) -> None:
    store = CellStore(tmp_path)
    short, other = make_record("beta-1", 0), make_record("beta-1", 0, epochs=3)
    store.save(short)
    store.save(other)
    assert {record.cell.id for record in load_records(tmp_path)} == {short.cell.id, other.cell.id}
    assert [record.cell for record in load_records(tmp_path, {short.cell.id})] == [short.cell]
    assert load_records(str(tmp_path)) == load_records(tmp_path)
    for absent in (tmp_path / "nothing", str(tmp_path / "nothing")):
        with pytest.raises(ValueError, match=r"there is no folder .*nothing; give a study's"):
            load_records(absent)


def test_markdown_shows_numbers_and_units(records: list[CellRecord]) -> None:
    text = to_markdown(build_table(records, ROWS, ["digits"]))
    cells = {
        parts[0]: parts[1:]
        for parts in (
            [part.strip() for part in row.strip("|").split("|")]
            for row in text.splitlines()
            if row.startswith("|")
        )
    }
    half = T_2 / math.sqrt(3)
    assert cells["No MixUp"][0] == f"7.00 ± {half:.2f}"
    assert cells["MixUp (α = 2) †"][2] == "–"
    interval = f"−2.00 [−{2 + half:.2f}, +{half - 2:.2f}]"
    assert cells["MetaMixUp"][2] == interval
    assert cells["MetaMixUp"][5] == f"{46 / 11:.2f}×"
    assert cells["MetaMixUp"][6:] == ["1k", "2.48"]
    assert "1.00× is 11 s of training." in text
    # Every line of the table is as wide as the first: it reads well in a terminal.
    table = [row for row in text.splitlines() if row.startswith("|")]
    assert len({len(row) for row in table}) == 1
    for said in ("meta-validation images; the test set selects nothing", "Holm", "Student-t"):
        assert said in text


def test_files_are_written(tmp_path: Path, records: list[CellRecord]) -> None:
    frame = build_table(records, ROWS, ["digits"])
    output = tmp_path / "new"
    paths = write_report(output, "table2", frame, "Preset smoke.")
    assert paths == [output / "table2.csv", output / "table2.md"]
    assert sorted(output.iterdir()) == paths  # nothing temporary is left
    with open(paths[0], newline="") as file:
        lines = list(csv.DictReader(file))
    assert [entry["method"] for entry in lines] == ["none", "beta-1", "beta-2", "metamixup"]
    assert float(lines[0]["mean_error"]) == 7.0
    assert lines[0]["samples_seen"] == "1000.0"
    assert lines[1]["paper_error"] == ""
    assert paths[1].read_text().startswith("# table2\n\nPreset smoke.\n\n## digits\n\n| method")


def test_summaries_leave_out_rows_without_results(records: list[CellRecord]) -> None:
    rows = summary_rows(build_table(records, [*ROWS, SEARCHED], ["digits"]))
    assert [row.method for row in rows] == [row.key for row in ROWS]
    assert rows[0].mean_error == pytest.approx(7.0)
    assert rows[0].n_seeds == 3


def test_summaries_take_further_numbers_by_method_and_data_set(records: list[CellRecord]) -> None:
    further = {("metamixup", "digits"): {"minus_placebo": -1.0}, ("none", "mnist"): {"x": 1.0}}
    rows = summary_rows(build_table(records, ROWS, ["digits"]), further)
    assert {row.method: row.further for row in rows if row.further} == {
        "metamixup": {"minus_placebo": -1.0}
    }


def test_a_frozen_row_bears_the_training_that_it_draws_from(make_record: MakeRecord) -> None:
    frozen = StudyRow(
        Row("frozen", "Frozen", "", "frozen", control_of="metamixup"), FrozenFrom("metamixup")
    )
    rows = [LEARNED, frozen.row, with_meta_images(frozen).row]
    records = [
        *(
            make_record("metamixup", s, train_seconds=40.0 + 2 * s, samples_seen=3000)
            for s in (0, 1)
        ),
        make_record("metamixup", 2, status="diverged", train_seconds=900.0),
        *(
            make_record(key, s, train_seconds=10.0, samples_seen=1000)
            for key in ("frozen", "frozen+meta")
            for s in (0, 1)
        ),
    ]
    table = build_table(records, rows, ["digits"])
    for key in ("frozen", "frozen+meta"):
        of = line(table, key)
        assert (of["search_seconds"], of["train_seconds"]) == (41.0, 51.0)
        assert (of["search_samples"], of["samples_seen"]) == (3000, 4000)
    assert line(table, "metamixup")["search_seconds"] == 0


def test_each_architecture_is_compared_with_its_own_best_beta(
    make_record: Callable[..., CellRecord],
) -> None:
    errors = {"beta-1": [9.0, 9.5], "mine": [8.0, 7.5], "none": [9.5, 9.0]}
    lower = {key: [value - 5 for value in values] for key, values in errors.items()}
    records, rows = [], []
    for name, ours in (("small", errors), ("large", lower)):
        for key, values in ours.items():
            family = {"beta-1": "beta", "none": "none"}.get(key, "extra")
            rows.append(Row(f"{key}@{name}", key, "", family, architecture=name))  # type: ignore[arg-type]
            records += [
                make_record(f"{key}@{name}", seed, test_error=value, val_error=value)
                for seed, value in enumerate(values)
            ]
    frame = build_table(records, rows, ["digits"])
    assert list(frame[frame.best_beta].method) == ["beta-1@small", "beta-1@large"]
    for key in ("mine", "none"):
        small, large = (line(frame, f"{key}@{name}") for name in ("small", "large"))
        for column in ("diff_vs_best_beta", "p_value", "p_holm"):
            assert small[column] == large[column]
        alone = build_table(records, rows[:3], ["digits"])
        assert pd.Series(line(alone, f"{key}@small")).equals(pd.Series(small))
    assert line(frame, "mine@large")["diff_vs_best_beta"] == -1.5
    text = to_markdown(frame)
    assert text.index("## digits, small") < text.index("## digits, large")
    assert text.count("| mine ") == 2

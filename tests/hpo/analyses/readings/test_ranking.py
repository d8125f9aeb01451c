"""Rankings and verdicts from made-up results, against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import beta as beta_distribution

from core.meta.reading import DEFAULT, PAPER
from core.policies import Beta, LearnedConfig, NoMix
from core.training.config import TrainingConfig
from hpo.analyses.readings.ranking import (
    RANKED_COLUMNS,
    moves,
    near_ends,
    rank_readings,
    start_share,
)
from hpo.cells.record import CellRecord
from hpo.report.outcome import Outcome
from hpo.report.table import build_table
from hpo.search.protocol import SearchSettings
from hpo.study.plan import Plan
from hpo.study.rows import Row, StudyRow
from hpo.study.variants import with_meta_images
from tests.support.results import result

MakeRecord = Callable[..., CellRecord]
T_2 = 4.302653  # two-sided 95 % quantile of Student's t with 2 degrees of freedom

NONE = StudyRow(Row("none", "No MixUp", "", "none"), NoMix())
MIXUP = StudyRow(Row("beta-1", "MixUp", "", "beta"), Beta(alpha=1.0))
MOVER = StudyRow(Row("mover", "Mover", "", "learned"), LearnedConfig(reading=DEFAULT))
LETTER = StudyRow(Row("letter", "Letter", "", "learned"), LearnedConfig(reading=PAPER))
OVERLAP = StudyRow(
    Row("overlap", "Overlap", "", "learned"),
    LearnedConfig(reading=DEFAULT),
    {"meta_in_training": True, "meta_size": 50},
)

# 100 λ a seed: 10 in each tenth; ends of 20, one end alone; all within the middle.
FLAT = [5] * 20
U_SHAPE = [20, 5, *[3] * 14, 1, 2, 10, 20]
ONE_END = [4, 4, *[3] * 16, 20, 24]
MIDDLE = [0] * 10 + [20] * 5 + [0] * 5


def history(changes: Sequence[float]) -> list[dict[str, float]]:
    return [{"epoch": 1.0 + i, "lam_change": change} for i, change in enumerate(changes)]


def outcome(
    make_record: MakeRecord,
    told: Mapping[str, tuple[StudyRow, Sequence[float], dict[str, Any]]],
    datasets: Sequence[str] = ("digits",),
) -> Outcome:
    """Returns what a study of these rows ended with: test errors by seed, and more of each
    result."""
    rows = [row for row, _, _ in told.values()]
    records = [
        make_record(row.row.key, seed, dataset=name, policy=row.policy, test_error=error, **more)
        for name in datasets
        for row, errors, more in told.values()
        for seed, error in enumerate(errors)
    ]
    base = {d: TrainingConfig(d, "cnn", NoMix(), meta_size=200) for d in datasets}
    plan = Plan("readings", rows, datasets, range(3), base, SearchSettings(trials=3))
    frame = build_table(records, [row.row for row in rows], datasets)
    return Outcome(plan, records, {}, frame, Path("out"))


def moving(
    moves: Sequence[float], first: list[int], last: list[int], seconds: float
) -> dict[str, Any]:
    """Returns what a learned row's result has of its own: λ moves and ends with a histogram."""
    histograms = {"lam_histogram": last, "lam_histogram_first": first}
    cost = {"train_seconds": seconds, "samples_seen": 3000}
    return {"history": history(moves), **histograms, **cost}


TOLD: dict[str, tuple[StudyRow, Sequence[float], dict[str, Any]]] = {
    "none": (NONE, [8.0, 9.0, 10.0], {"train_seconds": 10.0, "samples_seen": 1000}),
    "beta-1": (MIXUP, [7.0, 8.0, 9.2], {"train_seconds": 11.0, "samples_seen": 1000}),
    "mover": (MOVER, [5.0, 6.1, 7.0], moving([0.2, 0.3, 0.1], FLAT, U_SHAPE, 40.0)),
    "letter": (LETTER, [9.0, 9.5, 11.0], moving([0.002, 0.001, 0.0], MIDDLE, MIDDLE, 45.0)),
}


def lines_of(given: Outcome) -> dict[str, dict[str, Any]]:
    return {line["method"]: line for line in rank_readings(given).to_dict("records")}


def test_one_line_a_row_by_mean_error(make_record: MakeRecord) -> None:
    frame = rank_readings(outcome(make_record, TOLD, ("digits", "mnist")))
    assert tuple(frame.columns) == RANKED_COLUMNS
    assert list(frame["dataset"]) == ["digits"] * 4 + ["mnist"] * 4
    assert list(frame["method"]) == ["mover", "beta-1", "none", "letter"] * 2
    assert list(frame["rank"]) == [1, 2, 3, 4] * 2


def test_a_row_without_results_comes_last(make_record: MakeRecord) -> None:
    actual = lines_of(outcome(make_record, {**TOLD, "mover": (MOVER, [], {})}))
    assert list(actual) == ["beta-1", "none", "letter", "mover"]
    mover = actual["mover"]
    assert (mover["n_seeds"], mover["fig6"], mover["table1"]) == (0, "", "")
    assert all(math.isnan(mover[name]) for name in ("moves", "near_0", "mean_error", "time_ratio"))


def test_what_a_reading_is_and_how_far_it_moves(make_record: MakeRecord) -> None:
    actual = lines_of(outcome(make_record, {**TOLD, "overlap": (OVERLAP, [4.0, 5.0, 6.0], {})}))
    letter = actual["letter"]
    assert [letter[f] for f in ("projection", "gradient", "scale", "step_size")] == [
        "sigmoid_after", "lam", "mean", 5.0
    ]  # fmt: skip
    assert [letter[f] for f in ("init_alpha", "inner_step", "meta_steps")] == [
        1.0, "gradient_descent", 1
    ]  # fmt: skip
    assert (letter["meta_size"], letter["overlap"]) == (200, False)
    assert (actual["overlap"]["meta_size"], actual["overlap"]["overlap"]) == (50, True)
    assert actual["mover"]["moves"] == pytest.approx(0.2)
    assert actual["mover"]["moves_last"] == pytest.approx(0.1)
    assert letter["moves"] == pytest.approx(0.001)
    assert letter["moves_last"] == 0.0
    assert math.isnan(actual["none"]["moves"])
    assert actual["none"]["scale"] == ""


def test_errors_and_cost_by_hand(make_record: MakeRecord) -> None:
    actual = lines_of(outcome(make_record, TOLD))
    none, mover = actual["none"], actual["mover"]
    assert (none["mean_error"], none["n_seeds"]) == (pytest.approx(9.0), 3)
    assert none["ci_high"] - none["mean_error"] == pytest.approx(T_2 / math.sqrt(3))
    assert (mover["time_ratio"], mover["samples_ratio"]) == (4.0, 3.0)
    assert (none["time_ratio"], none["samples_ratio"]) == (1.0, 1.0)
    # On validation images the two are equal, and the first is the best constant: −3.0, −2.9, −3.0.
    assert mover["diff_vs_best_beta"] == pytest.approx(-8.9 / 3)
    # −2.0, −1.9 and −2.2 to beta-1.
    assert mover["diff_vs_mixup"] == pytest.approx(-6.1 / 3)
    assert mover["mixup_ci_high"] == pytest.approx(-6.1 / 3 + T_2 * math.sqrt(0.07 / 3 / 3))


def test_counts_near_the_ends() -> None:
    assert near_ends(U_SHAPE) == (25, 30, 100)
    assert near_ends([1, 0, 0, 0, 0, 0, 0, 0, 0, 3]) == (1, 3, 4)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_what_a_reading_starts_with(alpha: float) -> None:
    for projection in ("sigmoid_before", "clip"):
        share = start_share(projection, alpha)
        assert share == pytest.approx(1 - beta_distribution(alpha, alpha).cdf(0.9), rel=1e-6)
    assert start_share("sigmoid_after", alpha) == 0.0
    assert start_share("clip", 1.0) == pytest.approx(0.1)


def verdict(make_record: MakeRecord, last: list[int], first: list[int], alpha: float = 1.0) -> str:
    policy = LearnedConfig(reading=replace(DEFAULT, init_alpha=alpha))
    more = {"lam_histogram": last, "lam_histogram_first": first, "history": history([0.1])}
    stated = (replace(MOVER, recipe=policy), [5.0, 6.0, 7.0], more)
    return str(lines_of(outcome(make_record, {**TOLD, "mover": stated}))["mover"]["fig6"])


def test_more_near_both_ends_than_mixup_is_figure_6(make_record: MakeRecord) -> None:
    assert verdict(make_record, U_SHAPE, FLAT) == "yes"
    assert verdict(make_record, U_SHAPE, U_SHAPE) == "yes"
    assert verdict(make_record, FLAT, U_SHAPE) == "early"
    assert verdict(make_record, FLAT, FLAT) == "no"
    assert verdict(make_record, ONE_END, FLAT) == "no"
    assert verdict(make_record, ONE_END[::-1], FLAT) == "no"
    assert verdict(make_record, MIDDLE, MIDDLE) == "no"


def test_a_u_shape_that_it_started_with_is_not_learned(make_record: MakeRecord) -> None:
    """Beta(0.2, 0.2) has a third of its λ near each end; U_SHAPE a quarter and 30 %."""
    assert start_share("clip", 0.2) > 0.3
    assert verdict(make_record, U_SHAPE, FLAT, alpha=0.2) == "no"
    assert verdict(make_record, [48, *[0] * 18, 52], FLAT, alpha=0.2) == "yes"


def test_the_test_is_binomial_and_corrected_for_all_readings(make_record: MakeRecord) -> None:
    # 300 λ, 45 near 0 and 48 near 1: P(at least 45 of 300 at 0.1) decides.
    last = [10, 5, *[4] * 11, *[5] * 5, 5, 11]
    more = {**TOLD["mover"][2], "lam_histogram": last}
    actual = lines_of(outcome(make_record, {**TOLD, "mover": (MOVER, [5.0, 6.0, 7.0], more)}))
    below = math.fsum(math.comb(300, k) * 0.1**k * 0.9 ** (300 - k) for k in range(45))
    # Holm: the smallest of four tests (two readings, first and last epoch).
    assert actual["mover"]["fig6_p_holm"] == pytest.approx(4 * (1 - below), rel=1e-6)
    assert actual["letter"]["fig6_p_holm"] == 1.0


def table1(make_record: MakeRecord, **errors: Sequence[float]) -> str:
    stated = {key: (row, errors.get(key, e), more) for key, (row, e, more) in TOLD.items()}
    return str(lines_of(outcome(make_record, stated))["mover"]["table1"])


def test_the_order_of_table_1(make_record: MakeRecord) -> None:
    # −2 and −1 with spreads of 0.1 have p near 0.001, enough for four comparisons.
    sure = {"beta-1": [7.0, 8.0, 9.0], "none": [8.0, 9.05, 9.95], "mover": [5.0, 6.05, 6.95]}
    assert table1(make_record, **sure) == "yes"
    assert table1(make_record, **{**sure, "mover": [4.0, 6.05, 8.95]}) == "means"
    assert table1(make_record, **{**sure, "none": [7.0, 9.5, 9.0]}) == "means"
    assert table1(make_record, **{**sure, "mover": [7.5, 8.0, 9.0]}) == "no"
    assert table1(make_record, **{**sure, "none": [6.0, 7.05, 7.95]}) == "no"
    assert table1(make_record, **{**sure, "beta-1": []}) == ""
    assert table1(make_record, **{**sure, "none": []}) == ""
    one_seed = {key: errors[:1] for key, errors in sure.items()}
    assert table1(make_record, **one_seed) == "means"


def test_who_trains_on_the_meta_images_is_held_against_who_does(make_record: MakeRecord) -> None:
    more = TOLD["mover"][2]
    stated = {
        **TOLD,
        "overlap": (OVERLAP, [4.0, 5.0, 6.0], more),
        "none+meta": (with_meta_images(NONE), [4.0, 5.0, 6.1], {}),
        "beta-1+meta": (with_meta_images(MIXUP), [3.5, 4.5, 5.5], {}),
    }
    actual = lines_of(outcome(make_record, stated))
    assert actual["overlap"]["diff_vs_mixup"] == pytest.approx(0.5)
    assert actual["overlap"]["table1"] == "no"
    assert actual["mover"]["diff_vs_mixup"] == pytest.approx(-6.1 / 3)
    assert actual["mover"]["table1"] != "no"
    del stated["none+meta"]
    assert lines_of(outcome(make_record, stated))["overlap"]["table1"] == ""


def test_only_finished_final_cells_count(make_record: MakeRecord) -> None:
    given = outcome(make_record, TOLD)
    stray = [
        make_record("mover", 7, status="diverged", policy=MOVER.policy, history=history([9.0])),
        make_record("mover", 8, purpose="search", test_error=99.0, history=history([9.0])),
        make_record("mover", 9, dataset="mnist", test_error=99.0, history=history([9.0])),
    ]
    assert lines_of(replace(given, records=[*given.records, *stray]))["mover"]["moves"] == (
        pytest.approx(0.2)
    )


def test_moves_of_epochs_without_a_meta_stage() -> None:
    assert moves(result(history=[{"epoch": 1.0}, *history([0.4])])) == pytest.approx(0.4)
    assert math.isnan(moves(result(history=[{"epoch": 1.0}])))
    assert math.isnan(moves(result(history=[]), last=True))

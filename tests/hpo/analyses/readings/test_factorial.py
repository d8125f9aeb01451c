"""Main effects of a made-up factorial, against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from core.policies import LearnedConfig, NoMix
from core.training.config import TrainingConfig
from hpo.analyses.readings.factorial import EFFECT_COLUMNS, DesignPoint, main_effects
from hpo.cells.record import CellRecord
from hpo.report.outcome import Outcome
from hpo.search.protocol import SearchSettings
from hpo.study.plan import Plan
from hpo.study.rows import Row, StudyRow

MakeRecord = Callable[..., CellRecord]
T_1 = 12.706205  # two-sided 95 % quantile of Student's t with 1 degree of freedom

POINTS = [
    DesignPoint({"color": "red", "size": "small"}, "red-small"),
    DesignPoint({"color": "red", "size": "large"}, "large"),
    DesignPoint({"color": "blue", "size": "small"}, "blue-small"),
    DesignPoint({"color": "blue", "size": "large"}, "large"),  # the same reading as in red
]
ERRORS = {"red-small": [2.0, 12.0], "large": [6.0, 18.0], "blue-small": [4.0, 16.0]}
MOVES = {"red-small": 0.1, "large": 0.3, "blue-small": 0.2}


def outcome(make_record: MakeRecord) -> Outcome:
    policy = LearnedConfig()
    records = [
        make_record(
            key,
            seed,
            policy=policy,
            test_error=error,
            history=[{"epoch": 1.0, "lam_change": MOVES[key]}],
        )
        for key, errors in ERRORS.items()
        for seed, error in enumerate(errors)
    ]
    rows = [StudyRow(Row(key, key, "", "learned"), policy) for key in ERRORS]
    base = {"digits": TrainingConfig("digits", "cnn", NoMix())}
    plan = Plan("readings", rows, ["digits"], range(2), base, SearchSettings(trials=3))
    return Outcome(plan, records, {}, pd.DataFrame(), Path("out"))


def effects(given: Outcome) -> dict[tuple[str, str], dict[str, Any]]:
    frame = main_effects(given, POINTS)
    assert tuple(frame.columns) == EFFECT_COLUMNS
    return {(e["factor"], e["level"]): e for e in frame.to_dict("records")}


def test_means_over_the_combinations_of_a_level(make_record: MakeRecord) -> None:
    actual = effects(outcome(make_record))
    assert list(actual) == [
        ("color", "red"),
        ("color", "blue"),
        ("size", "small"),
        ("size", "large"),
    ]
    red, small, large = actual["color", "red"], actual["size", "small"], actual["size", "large"]
    # Red: 2 and 6, 12 and 18 are 4 and 15 by seed; s = 11/√2, half width t·s/√2.
    assert red["mean_error"] == pytest.approx(9.5)
    assert red["ci_high"] - red["mean_error"] == pytest.approx(T_1 * 5.5, rel=1e-6)
    assert red["moves"] == pytest.approx(0.2)
    assert small["mean_error"] == pytest.approx((3 + 14) / 2)
    assert small["moves"] == pytest.approx(0.15)
    # One row stands for both combinations of "large".
    assert (red["readings"], small["readings"], large["readings"]) == (2, 2, 1)
    assert large["mean_error"] == pytest.approx(12.0)


def test_the_difference_is_paired_over_seeds(make_record: MakeRecord) -> None:
    actual = effects(outcome(make_record))
    # All four combinations: 4.5 and 16 by seed. Red − all: −0.5 and −1; blue is its mirror image.
    red = actual["color", "red"]
    assert red["diff"] == pytest.approx(-0.75)
    assert red["diff_high"] == pytest.approx(-0.75 + T_1 * 0.25, rel=1e-6)
    assert actual["color", "blue"]["diff"] == pytest.approx(0.75)
    assert actual["size", "large"]["diff"] == pytest.approx(1.75)


def test_a_combination_that_lacks_a_seed_is_left_out(make_record: MakeRecord) -> None:
    given = outcome(make_record)
    remaining = [r for r in given.records if (r.cell.method, r.cell.seed) != ("red-small", 1)]
    actual = effects(replace(given, records=remaining))
    assert actual["color", "red"]["mean_error"] == pytest.approx(12.0)
    assert actual["size", "small"]["mean_error"] == pytest.approx(10.0)


def test_a_factor_with_one_level_has_no_effect(make_record: MakeRecord) -> None:
    given = outcome(make_record)
    remaining = [r for r in given.records if r.cell.method != "large"]
    assert list(effects(replace(given, records=remaining))) == [("color", "red"), ("color", "blue")]


def test_no_results_no_effects(make_record: MakeRecord) -> None:
    assert effects(replace(outcome(make_record), records=[])) == {}


def test_one_seed_has_no_intervals(make_record: MakeRecord) -> None:
    given = outcome(make_record)
    remaining = [r for r in given.records if r.cell.seed == 0]
    red = effects(replace(given, records=remaining))["color", "red"]
    assert red["mean_error"] == pytest.approx(4.0)
    assert red["diff"] == pytest.approx(-0.5)
    assert all(math.isnan(red[end]) for end in ("ci_low", "diff_low", "moves_high"))

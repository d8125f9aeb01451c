"""The rows of the study of readings, and the study as a user runs it."""

from __future__ import annotations

from dataclasses import fields
from itertools import product
from pathlib import Path

import pandas as pd
import pytest

from core.meta.reading import DEFAULT, PAPER, Reading
from core.policies import LearnedConfig
from studies.readings import design, main, rows

ROWS = {row.row.key: row for row in rows()}
FACTORS = ("projection", "gradient", "scale", "step size")


def reading_of(key: str) -> Reading:
    policy = ROWS[key].policy
    assert isinstance(policy, LearnedConfig)
    return policy.reading


def changed(reading: Reading, origin: Reading) -> dict[str, object]:
    """Returns the fields in which it differs."""
    names = [field.name for field in fields(Reading)]
    return {n: getattr(reading, n) for n in names if getattr(reading, n) != getattr(origin, n)}


def test_the_factorial_is_complete() -> None:
    points = design()
    levels = {tuple(point.levels[factor] for factor in FACTORS) for point in points}
    assert levels == set(
        product(
            ("before", "after", "clip"),
            ("lam", "logit"),
            ("mean", "sum", "rms", "sign"),
            ("low", "middle", "high"),
        )
    )
    assert len(points) == len(levels) == 3 * 2 * 4 * 3
    for point in points:
        reading = reading_of(point.key)
        assert point.levels["projection"] in reading.projection
        assert reading.scale == point.levels["scale"]
        if reading.scale != "sign":
            assert reading.gradient == point.levels["gradient"]
        assert set(changed(reading, DEFAULT)) <= {"projection", "gradient", "scale", "step_size"}
    for point in points:
        steps = {
            other.levels["step size"]: reading_of(other.key).step_size
            for other in points
            if all(other.levels[factor] == point.levels[factor] for factor in FACTORS[:3])
        }
        assert steps["low"] < steps["middle"] < steps["high"]


def test_one_reading_is_one_row() -> None:
    """By the sign both gradients move λ alike, and nothing else of the factorial is twice there."""
    keys = [point.key for point in design()]
    assert len(set(keys)) == 72 - 9
    assert len({reading_of(key) for key in keys}) == 63
    assert {key for key in keys if keys.count(key) > 1} == {k for k in keys if "sign" in k}


def test_each_factor_is_varied_alone_around_both_named_readings() -> None:
    for name, origin in (("default", DEFAULT), ("paper", PAPER)):
        for key, expected in {
            "start-0.2": {"init_alpha": 0.2},
            "start-4": {"init_alpha": 4.0},
            "inner-optimizer": {"inner_step": "optimizer"},
            "meta-steps-3": {"meta_steps": 3},
            "meta-100": {},
            "meta-1000": {},
            "overlap": {},
        }.items():
            assert changed(reading_of(f"{name}-{key}"), origin) == expected
        assert ROWS[f"{name}-meta-100"].training == {"meta_size": 100}
        assert ROWS[f"{name}-meta-1000"].training == {"meta_size": 1000}
        shared = {"meta_in_training": True, "equal_steps": True}
        assert ROWS[f"{name}-overlap"].training == ROWS["none+meta"].training == shared
    readings = [row.policy.reading for row in rows() if isinstance(row.policy, LearnedConfig)]
    assert {DEFAULT, PAPER} <= set(readings)


def test_what_readings_are_held_against_is_there() -> None:
    references = {key: row for key, row in ROWS.items() if row.row.family != "learned"}
    assert set(references) == {
        "none",
        "beta-1",
        "beta-0.2",
        "beta-search",
        "none+meta",
        "beta-1+meta",
        "placebo",
        "frozen",
    }
    assert {ROWS[key].row.control_of for key in ("placebo", "frozen")} == {"before-logit-rms-4"}
    assert reading_of("placebo") == reading_of("before-logit-rms-4") == DEFAULT
    assert [key for key, row in references.items() if row.row.family == "none"] == ["none"]
    for key in ("beta-1", "beta-0.2", "beta-search"):
        assert references[key].row.family == "beta"


@pytest.mark.slow
def test_the_study_ranks_readings(tmp_path: Path, nothing_drawn: None) -> None:
    some = (
        "none,beta-1,beta-1+meta,after-lam-mean-5,before-logit-rms-4,before-sign-4,default-overlap"
    )
    flags = ["--preset", "smoke", "--seeds", "2", "--rows", some, "--output", str(tmp_path)]
    assert main(flags) == 0
    ranked = pd.read_csv(tmp_path / "readings-ranked.csv").set_index("method")
    assert sorted(ranked.index) == sorted(some.split(","))
    assert (ranked["n_seeds"] == 2).all()
    # To the letter λ stays within [0.50, 0.73]; by the sign it moves by 4 in the logit.
    assert ranked.loc["after-lam-mean-5", "moves"] < 0.02
    assert ranked.loc["after-lam-mean-5", "near_1"] == 0
    assert ranked.loc["before-sign-4", "moves"] > 0.3
    assert ranked.loc["before-sign-4", "fig6"] == "yes"
    # As many steps, of three passes over a batch, whatever images train.
    assert (
        ranked.loc["default-overlap", "samples_ratio"]
        == ranked.loc["before-sign-4", "samples_ratio"]
    )
    effects = pd.read_csv(tmp_path / "readings-effects.csv")
    assert set(effects["factor"]) == {"projection", "gradient", "scale", "step size"}
    assert "## Readings, ranked: digits" in (tmp_path / "readings.md").read_text()

"""The rows that a command line names: a study's own, other constants, and varied ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

import core
from core.meta.reading import DEFAULT
from core.policies import Beta, Frozen, LearnedConfig, NoMix
from core.training.config import TrainingConfig
from hpo.search.strategies import Evolved
from hpo.study.named_rows import METAMIXUP, MIXUP, NONE, SEARCHED, beta, fixed, rows_of
from hpo.study.recipes import FrozenFrom
from hpo.study.row_names import chosen_rows
from hpo.study.rows import Row, SemiRow, StudyRow, controls
from hpo.study.variants import longer, stopped, with_meta_images
from studies.commands.pages import rows_of as rows_of_command

TABLE = [
    NONE,
    MIXUP,
    fixed(0.3),
    SEARCHED,
    METAMIXUP,
    *controls(METAMIXUP, plain=True),
    stopped(MIXUP),
]
BASE = TrainingConfig("digits", "digits_cnn", Beta(alpha=1.0), epochs=30)


def keys(*names: str, table: list[StudyRow] = TABLE) -> list[str]:
    return [row.row.key for row in chosen_rows(table, names)]


def test_a_constant_has_any_number_where_the_study_has_constants() -> None:
    assert keys("beta-4", "fixed-0.15", "none") == ["none", "beta-4", "fixed-0.15"]
    [row] = chosen_rows(TABLE, ["beta-4"])
    assert (row.policy, row.row.family) == (Beta(alpha=4.0), "beta")
    [row] = chosen_rows(TABLE, ["metamixup-from-4"])
    assert row.policy == LearnedConfig(reading=replace(core.DEFAULT, init_alpha=4.0))
    assert row.row.family == "learned"
    for name in ("fixed-0.2", "gamma-2", "metamixup-from-2"):
        with pytest.raises(ValueError, match=rf"unknown row '{name}'; choose among .*, beta-NUM"):
            keys(name, table=[NONE, beta(2.0)])


def test_a_row_of_the_study_goes_before_one_that_its_name_would_make() -> None:
    written = StudyRow(Row("beta-1", "As in the paper", "alpha=1", "beta"), Beta(alpha=1.0))
    for name in ("beta-1", "beta-1.0"):
        assert chosen_rows([NONE, written], [name]) == [written]
    assert chosen_rows(TABLE, ["beta-1-stop-0.830"]) == [TABLE[-1]]


def test_names_end_with_what_varies_a_row() -> None:
    names = ["metamixup-x3", "beta-4-stop-0.5", "beta-4-x2-stop-0.5", "beta-search-stop-0.9"]
    rows = {row.row.key: row for row in chosen_rows(TABLE, [*names, "beta-4-stop-0.5+meta"])}
    assert list(rows) == [*names, "beta-4-stop-0.5+meta"]
    trained = {key: row.training_of(BASE) for key, row in rows.items()}
    assert {key: (t.epochs, t.stop_mixing) for key, t in trained.items()} == {
        "metamixup-x3": (90, 1.0),
        "beta-4-stop-0.5": (30, 0.5),
        "beta-4-x2-stop-0.5": (60, 0.5),
        "beta-search-stop-0.9": (30, 0.9),
        "beta-4-stop-0.5+meta": (30, 0.5),
    }
    assert rows["metamixup-x3"].policy == METAMIXUP.policy
    assert rows["metamixup-x3"].weight == 3 * METAMIXUP.weight
    assert rows["beta-4-stop-0.5"].row.counterpart == "beta-4"
    assert rows["beta-search-stop-0.9"].row.search == "beta-search-stop-0.9"
    assert rows["beta-4-stop-0.5+meta"].meta_in_training
    assert {row.row.family for row in rows.values()} == {"extra"}


def test_a_varied_row_keeps_its_architecture_and_needs_its_source() -> None:
    wide = StudyRow(Row("b", "B", "", "extra", architecture="wide"), Beta(alpha=1.0))
    [row] = chosen_rows([wide], ["b-x2"])
    assert row.row.architecture == "wide"
    with pytest.raises(ValueError, match="draws λ from what row metamixup learned"):
        keys("frozen-x2")
    chosen = chosen_rows(TABLE, ["frozen-x2", "metamixup"])
    assert chosen[-1].recipe == FrozenFrom("metamixup")


STRATEGY = StudyRow(Row("evolved", "Evolved", "", "extra"), Evolved())
REMEDY = StudyRow(Row("gce", "GCE", "", "extra"), NoMix(), {"loss": "gce"})
FEW = StudyRow(Row("vat", "VAT", "", "extra"), Beta(alpha=1.0), semi=SemiRow("vat"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none-stop-0.5", "row none mixes nothing: no none-stop-0.5"),
        ("gce-stop-0.5", "row gce mixes nothing: no gce-stop-0.5"),
        ("beta-1-stop-0.83-stop-0.5", "row beta-1-stop-0.83 stops mixing already: no "),
        ("beta-1-stop-1.5", "row beta-1-stop-1.5: mixing stops after a part above 0 and below 1"),
        ("beta-1-stop-0", "above 0 and below 1, got 0"),
        ("beta-1-x0", "row beta-1-x0: trains a positive number of times as long, got 0"),
        ("beta-1-x1", "row beta-1-x1 trains as long as beta-1; name that"),
        ("beta-1-x2-x2", "row beta-1-x2 has a length of its own: no beta-1-x2-x2"),
        ("beta-1-x1.2.3", "'1.2.3' is no number"),
        ("none+meta+meta", r"row none\+meta trains on them already: no none\+meta\+meta"),
        ("metamixup-x2+meta", r"row metamixup-x2 learns from .*: no metamixup-x2\+meta"),
        ("evolved-x2", "row evolved spends a budget of trainings: no evolved-x2"),
        ("evolved-stop-0.5", "row evolved spends a budget of trainings: no evolved-stop-0.5"),
        ("vat-x2", "row vat trains with few labels, not varied so: no vat-x2"),
        ("beta-0", "beta-0 mixes nothing, as the row none does"),
        ("fixed-2", r"fixed-2: .*write fixed-0.5"),
        ("beta-0.12345678", "beta-0.12345678 has more than the six digits"),
        ("beta-nan", r"beta-nan: .*write beta-0.5"),
        ("x2", "unknown row 'x2'"),
        ("-x2", "unknown row '-x2'"),
    ],
)
def test_what_cannot_be_varied_so_says_why(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        keys(name, table=[*TABLE, STRATEGY, FEW, REMEDY])


def test_names_mean_the_same_from_python() -> None:
    rows = rows_of(["none", "beta-4-stop-0.83", "metamixup-x2", LearnedConfig(permute=True)])
    assert [row.row.key for row in rows][:3] == ["none", "beta-4-stop-0.83", "metamixup-x2"]
    assert rows[1] == stopped(beta(4.0))
    assert rows[2] == longer(METAMIXUP, 2.0)
    assert rows_of(["none+meta"]) == [with_meta_images(NONE)]
    assert rows_of([Beta(alpha=0.0)]) == [NONE]


def test_a_placebo_is_the_control_of_the_row_that_trains_alike() -> None:
    names = ["metamixup", "placebo", "metamixup-x3", "placebo-x3", "placebo-stop-0.5"]
    assert {row.row.key: row.row.control_of for row in rows_of(names)} == {
        "metamixup": None,
        "placebo": "metamixup",
        "metamixup-x3": None,
        "placebo-x3": "metamixup-x3",
        "placebo-stop-0.5": None,
    }


def test_rows_that_only_a_command_names_are_known_today_too() -> None:
    known = rows_of_command("metamixup table2 --rows none,beta-3-x2,metamixup-x3,gone")
    assert known["beta-3-x2"] == longer(beta(3.0), 2.0)
    assert known["metamixup-x3"].policy == METAMIXUP.policy
    assert "gone" not in known


def test_a_placebo_by_its_rows_name_is_that_row() -> None:
    """Policies have kinds of such names from before, which are other controls."""
    scores, placebo, frozen = rows_of(["scores", "scores-placebo", "scores-frozen"])
    assert (placebo.row.family, placebo.row.control_of) == ("placebo", "scores")
    assert scores.policy is not None
    assert placebo.policy == scores.policy.placebo()
    assert frozen.frozen_from == "scores"
    [area, of_area] = rows_of(["scores-area", "scores-area-placebo"])
    assert (of_area.row.control_of, of_area.row.family) == ("scores-area", "placebo")
    assert area.policy is not None
    assert of_area.policy == area.policy.placebo()


def test_rows_of_different_policies_have_different_names() -> None:
    quick, slow = (LearnedConfig(reading=replace(DEFAULT, step_size=x)) for x in (8.0, 2.0))
    rows = rows_of([quick, slow, "beta-1-stop-0.83", "beta-1-stop-0.834"])
    assert [each.row.label for each in rows] == [
        "learned (step_size=8.0)",
        "learned (step_size=2.0)",
        "MixUp (α = 1), the last 17% unmixed",
        "MixUp (α = 1), the last 16.6% unmixed",
    ]
    frozen = rows_of([Frozen((0.0, 1.0)), Frozen((0.0, 0.5))])
    assert [each.row.label for each in frozen] == [f"frozen [{each.row.key}]" for each in frozen]

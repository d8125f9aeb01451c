from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from core.meta.reading import DEFAULT, PAPER
from core.policies import (
    AdaMixUpConfig,
    Beta,
    Frozen,
    FrozenScheduleConfig,
    L2RWConfig,
    LearnedBetaConfig,
    LearnedConfig,
    MetaWeightNetConfig,
    NoMix,
    PolicyConfig,
    ScoresConfig,
)
from core.training.config import TrainingConfig
from core.training.optimizers import learning_rate
from hpo.cells.cell import Cell
from hpo.search.protocol import SearchSettings
from hpo.search.spaces import BETA_ALPHA, OPTIMISATION
from hpo.study.plan import Plan
from hpo.study.recipes import SEARCHED_ALPHA, FrozenFrom, Recipe, Searched
from hpo.study.row_names import chosen_rows
from hpo.study.rows import Row, StudyRow, controls
from hpo.study.variants import with_meta_images

RECIPES: dict[str, Recipe] = {
    "none": NoMix(),
    "beta-1": Beta(alpha=1.0),
    "beta-search": SEARCHED_ALPHA,
    "metamixup": LearnedConfig(reading=PAPER),
    "placebo": LearnedConfig(permute=True, reading=DEFAULT),
    "scores": ScoresConfig(),
    "scores-placebo": ScoresConfig(permute=True),
}
ROWS = {
    key: StudyRow(Row(key, key.upper(), f"setting of {key}", "beta", {"cifar10": 5.0}), recipe)
    for key, recipe in RECIPES.items()
}
BASE = {
    "digits": TrainingConfig("digits", "digits_cnn", NoMix(), epochs=3),
    "mnist": TrainingConfig("mnist", "cnn", NoMix(), epochs=5, seed=99),
}


def make_plan(*keys: str, datasets: tuple[str, ...] = ("digits", "mnist"), seeds: int = 3) -> Plan:
    rows = [ROWS[key] for key in keys]
    return Plan("table2", rows, datasets, range(seeds), BASE, SearchSettings(trials=7))


def of_search(plan: Plan) -> list[Cell]:
    return plan.searched_cells(("beta-search", "digits", 10_000), {"alpha": 0.5})


def what(cells: list[Cell]) -> list[tuple[str, str, int]]:
    return [(cell.method, cell.dataset, cell.seed) for cell in cells]


def test_the_costly_cells_come_first_and_each_once() -> None:
    cells = make_plan("none", "beta-1", "metamixup", "beta-search", "placebo").fixed_cells()
    expected = [
        (method, dataset, seed)
        for method in ("metamixup", "placebo", "none", "beta-1")
        for dataset in ("digits", "mnist")
        for seed in (0, 1, 2)
    ]
    assert what(cells) == expected
    for cell in cells:
        policy = ROWS[cell.method].policy
        assert policy is not None
        of_dataset = BASE[cell.dataset]
        assert cell.training == replace(of_dataset, policy=policy, seed=cell.seed)
        assert cell.purpose == "final"


def test_cheaper_policies_start_after_the_costlier() -> None:
    """In units of a plain training: a meta stage is 3.5, at every step or at every so many."""
    policies = {
        "every-16": LearnedConfig(every=16),
        "every-2": LearnedConfig(permute=True, every=2),
        "scores-4": ScoresConfig(every=4),
        "exact": LearnedConfig(),
        "none": NoMix(),
    }
    rows = [StudyRow(Row(k, k, k, "learned", {}), policy) for k, policy in policies.items()]
    assert [row.weight for row in rows] == [1 + 3.5 / 16, 2.75, 1.875, 4.5, 1.0]
    plan = replace(make_plan(datasets=("digits",), seeds=1), rows=rows)
    started = [cell.method for cell in plan.fixed_cells()]
    assert started == ["exact", "every-2", "scores-4", "every-16", "none"]


@pytest.mark.parametrize(
    ("keys", "datasets", "seeds", "size"),
    [
        (["none"], ("digits",), 1, 1),
        (["none", "beta-1"], ("digits", "mnist"), 3, 12),
        (["none", "beta-search"], ("digits",), 3, 6 + 7),
        (["none", "beta-search", "metamixup"], ("digits", "mnist"), 2, 12 + 14),
        (["beta-search"], ("mnist",), 1, 8),
    ],
)
def test_the_size_counts_cells_and_trials(
    keys: list[str], datasets: tuple[str, ...], seeds: int, size: int
) -> None:
    plan = make_plan(*keys, datasets=datasets, seeds=seeds)
    assert plan.size == size
    searches = plan.open_searches()
    assert len(searches) == ("beta-search" in keys) * len(datasets)
    searched = [cell for key in searches for cell in plan.searched_cells(key, {"alpha": 1.0})]
    trials = 7 * len(searches)
    assert len(plan.fixed_cells()) + len(searched) + trials == size


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("none", "mine", "mine"), "2 rows have the key 'mine'; trainings are known by it"),
        (("my row",), "row key 'my row' cannot name files and runs; take letters, digits, _"),
        (("a/b",), "row key 'a/b' cannot name files"),
        (("lr=1",), "row key 'lr=1' cannot name files"),
        *(((f"a{sign}b",), f"row key 'a{sign}b' cannot name files") for sign in "(),:%"),
        ((".mine",), "row key '.mine' cannot name files"),
        (("",), "row key '' cannot name files"),
    ],
)
def test_keys_that_trainings_cannot_be_known_by_are_refused(
    keys: tuple[str, ...], message: str
) -> None:
    rows = [StudyRow(Row(key, key, "", "extra"), NoMix()) for key in keys]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Plan("table2", rows, ["digits"], range(1), BASE, SearchSettings(trials=7))


@pytest.mark.parametrize("family", ["none", "beta"])
def test_what_competes_for_the_best_beta_does_not_train_on_what_chooses_it(family: Any) -> None:
    row = Row("mine", "Mine", "", family)
    with pytest.raises(ValueError, match=r'row mine trains on .*; give it the family "extra"'):
        StudyRow(row, NoMix(), {"meta_in_training": True})
    extra = StudyRow(replace(row, family="extra"), NoMix(), {"meta_in_training": True})
    assert extra.meta_in_training


def test_a_searched_row_that_learns_has_no_variant_on_the_images_that_it_learns_from() -> None:
    learned = Searched(LearnedConfig(), OPTIMISATION)
    rows = [StudyRow(Row("metamixup-searched", "Searched", "", "learned"), learned), ROWS["none"]]
    with pytest.raises(ValueError, match=r"row metamixup-searched learns .*: no metamixup-s.*\+"):
        chosen_rows(rows, ["none", "metamixup-searched+meta"])
    assert len(chosen_rows(rows, ["none+meta", "metamixup-searched"])) == 2


def test_a_longer_row_shares_all_but_its_epochs_and_costs_that_much() -> None:
    long = replace(ROWS["beta-1"], row=replace(ROWS["beta-1"].row, key="long"), longer=2.5)
    rows = [ROWS["beta-1"], long]
    plan = Plan("table2", rows, ("digits",), range(1), BASE, SearchSettings(trials=7))
    first, second = plan.fixed_cells()
    assert (first.method, second.method) == ("long", "beta-1")
    assert first.training == replace(second.training, epochs=8)  # of 3
    assert long.weight == 2.5


def test_a_longer_row_decays_its_rate_at_the_same_parts_of_its_training() -> None:
    base = replace(BASE["digits"], schedule="step", milestones=(1, 2), epochs=4)
    long = replace(ROWS["beta-1"], longer=3.0).training_of(base)
    assert (long.epochs, long.milestones) == (12, (3, 6))
    for step in range(0, 120, 5):
        assert learning_rate(long, step, 120) == learning_rate(base, step // 3, 40)


def test_rows_that_search_differently_share_no_search() -> None:
    row = ROWS["beta-search"]
    other = replace(row.row, key="other", search="beta-search")
    for changed in (
        {"training": {"lr": 0.2}},
        {"recipe": Searched(Beta(alpha=1.0), OPTIMISATION)},
    ):
        with pytest.raises(ValueError, match="rows beta-search and other share the search"):
            replace(make_plan(), rows=[row, replace(row, row=other, **changed)])  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["none", "beta-1", "beta-search"])
def test_a_row_trained_on_the_meta_images_too_is_another_row(key: str) -> None:
    plain = ROWS[key]
    extra = with_meta_images(plain)
    assert extra.row.key == f"{key}+meta"
    assert extra.row.label == f"{key.upper()} + meta images"
    assert extra.row.setting == plain.row.setting
    assert extra.row.family == "extra"  # chosen by validation it would be chosen by training
    assert extra.row.paper_error == {}
    assert extra.recipe == plain.recipe
    assert extra.row.base == key
    assert extra.row.search == plain.row.search == (key if key == "beta-search" else "")
    assert extra.meta_in_training
    assert not plain.meta_in_training
    plan = replace(make_plan(), rows=[plain, extra])
    cells = plan.fixed_cells() or of_search(plan)
    assert len({cell.id for cell in cells}) == len(cells)
    assert all(cell.training.meta_in_training == ("+meta" in cell.method) for cell in cells)
    assert all(cell.training.equal_steps == ("+meta" in cell.method) for cell in cells)


@pytest.mark.parametrize("key", ["metamixup", "placebo", "scores", "scores-placebo"])
def test_images_that_lambda_learns_from_train_as_well_where_the_study_says_so(key: str) -> None:
    with pytest.raises(ValueError, match=rf"row {key} learns .*: no {key}\+meta"):
        chosen_rows([ROWS[key]], [f"{key}+meta"])
    overlap = with_meta_images(ROWS[key])
    assert chosen_rows([ROWS[key], overlap], [f"{key}+meta"]) == [overlap]


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"epoch": 3}, "row none: 'epoch' is no setting of a training; .*epochs"),
        ({"seed": 3}, "row none: 'seed' is shared by all rows"),
        ({"lr": 0.1, "image_size": 8}, "row none: 'image_size' is shared by all rows"),
        ({"policy": NoMix()}, "row none: 'policy' is shared"),
        ({"dataset": "mnist"}, "row none: 'dataset' is shared"),
        ({"meta_in_training": True}, "cannot choose the best Beta"),
    ],
)
def test_settings_that_a_row_cannot_have(training: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(ROWS["none"], training=training)


# Controls


def learned_row(policy: PolicyConfig) -> StudyRow:
    row = Row("mine", "Mine", "reading=mine", "learned", {"cifar10": 5.0})
    return StudyRow(row, policy, training={"meta_size": 50})


@pytest.mark.parametrize(
    ("policy", "placebo"),
    [
        (
            LearnedConfig(reading=PAPER, every=4),
            LearnedConfig(permute=True, reading=PAPER, every=4),
        ),
        (
            ScoresConfig(last_blocks=2),
            ScoresConfig(exchange=True, last_blocks=2),
        ),
        (LearnedBetaConfig(begin=0.5), LearnedBetaConfig(begin=0.5, permute=True)),
    ],
)
def test_controls_share_all_with_their_row_but_what_they_take_away(
    policy: PolicyConfig, placebo: PolicyConfig
) -> None:
    permuted, frozen = controls(learned_row(policy))
    assert permuted.recipe == placebo
    assert frozen.recipe == FrozenFrom("mine")
    for control, family in ((permuted, "placebo"), (frozen, "frozen")):
        assert control.training == {"meta_size": 50}
        assert (control.row.key, control.row.family) == (f"mine-{family}", family)
        assert control.row.control_of == "mine"
        assert control.row.label.endswith("of Mine")
        assert control.row.paper_error == {}
    keys = [row.row.key for row in controls(learned_row(policy), plain=True)]
    assert keys == ["placebo", "frozen"]


@pytest.mark.parametrize("policy", [L2RWConfig(), MetaWeightNetConfig(last_blocks=2)])
def test_weights_have_a_placebo_and_nothing_to_freeze(policy: Any) -> None:
    [permuted] = controls(learned_row(policy))
    assert permuted.recipe == replace(policy, permute=True)
    assert (permuted.row.key, permuted.row.control_of) == ("mine-placebo", "mine")
    with pytest.raises(ValueError, match=r"mine-placebo has no controls: .* it is one"):
        controls(permuted)


@pytest.mark.parametrize("key", ["none", "beta-1", "beta-search", "placebo", "scores-placebo"])
def test_what_learns_nothing_has_no_controls(key: str) -> None:
    with pytest.raises(ValueError, match=f"row {key} has no controls: "):
        controls(ROWS[key])


def test_frozen_cells_are_of_the_data_set_and_seed_of_their_source() -> None:
    source = learned_row(LearnedConfig())
    rows = [source, *controls(source), ROWS["none"]]
    plan = replace(make_plan(seeds=2), rows=rows)
    assert plan.size == 2 * 2 * 4
    assert what(plan.fixed_cells())[0] == ("mine", "digits", 0)
    assert {c.method for c in plan.fixed_cells()} == {"mine", "mine-placebo", "none"}
    assert of_search(plan) == []
    assert plan.open_searches() == {}
    [of] = [c for c in plan.fixed_cells() if (c.method, c.dataset, c.seed) == ("mine", "mnist", 1)]
    [cell] = plan.frozen_cells(of, [0.1, 0.2, 0.9])
    [over_time] = plan.frozen_cells(of, [0.1, 0.2, 0.9], [[0.0, 1.0], [0.1, 0.9]])
    assert over_time.training.policy == FrozenScheduleConfig(((0.0, 1.0), (0.1, 0.9)))
    assert replace(over_time, training=cell.training) == cell
    assert over_time.id != cell.id
    assert (cell.method, cell.purpose) == ("mine-frozen", "final")
    expected = Frozen(quantiles=(0.1, 0.2, 0.9))
    assert cell.training == replace(of.training, policy=expected)
    assert plan.followers("mine-placebo") == []


@pytest.mark.parametrize("discriminator", [True, False])
def test_a_frozen_adamixup_keeps_all_but_its_region(discriminator: bool) -> None:
    source = learned_row(AdaMixUpConfig(discriminator=discriminator))
    [frozen] = controls(source)
    assert (frozen.row.key, frozen.row.family) == ("mine-frozen", "frozen")
    assert frozen.row.control_of == frozen.frozen_from == "mine"
    plan = replace(make_plan(seeds=1), rows=[source, frozen])
    [of] = [cell for cell in plan.fixed_cells() if cell.dataset == "digits"]
    [cell] = plan.frozen_cells(of, [0.1, 0.2, 0.9], [[0.0, 1.0]])
    held = AdaMixUpConfig(discriminator=discriminator, quantiles=(0.1, 0.2, 0.9))
    assert cell.training == replace(of.training, policy=held)
    assert cell.id != replace(cell, training=of.training).id


def test_a_frozen_row_needs_its_source() -> None:
    source = learned_row(LearnedConfig())
    frozen = controls(source)[1]
    with pytest.raises(ValueError, match=r"row mine-frozen .*; add it: mine,mine-frozen"):
        replace(make_plan(), rows=[frozen])
    without = replace(frozen, recipe=FrozenFrom("beta-search"))
    with pytest.raises(ValueError, match="mine-frozen cannot draw λ from row beta-search"):
        replace(make_plan(), rows=[without, ROWS["beta-search"]])


def test_a_control_that_trains_on_more_images_is_no_control() -> None:
    """And with no counterpart, which has not those images."""
    frozen = controls(learned_row(LearnedConfig()))[1]
    frozen = replace(frozen, row=replace(frozen.row, counterpart="none"))
    more = with_meta_images(frozen)
    assert (more.row.key, more.row.control_of) == ("mine-frozen+meta", None)
    assert more.row.counterpart is None
    assert (more.frozen_from, more.meta_in_training) == ("mine", True)


def test_searches_for_the_same_share_neither_draws_nor_trainings() -> None:
    row = ROWS["beta-search"]
    shifted = Searched(Beta(alpha=1.0), BETA_ALPHA, shift=100)
    other = replace(row, row=replace(row.row, key="other", search="other"), recipe=shifted)
    plan = replace(make_plan(), rows=[row, other], datasets=("digits",))
    (one, first), (two, second) = plan.open_searches().items()
    assert (one[2] + 100, one[0]) == (two[2], "beta-search")
    trials = [first.next(), second.next()]
    assert trials[0].training.policy != trials[1].training.policy
    assert [plan.search_key(trial) for trial in trials] == [one, two]
    assert trials[1].seed == trials[0].seed + 100
    assert plan.searched_cells(two, {"alpha": 0.3})[0].method == "other"

"""Every strategy through the study: what it trains, and that it decides alike whatever happens."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from core.policies import Beta, Fixed, LearnedConfig, NoMix
from core.semi_supervised.config import SemiSupervisedConfig
from core.training.config import TrainingConfig
from hpo.analyses.anytime.curves import curves
from hpo.cells.cell import Cell
from hpo.cells.result import PartialResult
from hpo.cells.store import CellStore
from hpo.search.configured import configured
from hpo.search.drive import run_through
from hpo.search.protocol import SearchSettings
from hpo.search.space_search import SpaceSearch
from hpo.search.spaces import BETA_ALPHA, LEARNED_STEP, OPTIMISATION, Int, Space
from hpo.search.strategies import Evolved, Listed, ListSearch, Sampled, Strategy
from hpo.study.plan import Plan
from hpo.study.rows import Row, StudyRow
from hpo.study.variants import with_meta_images
from tests.support.results import result
from tests.support.study_bench import MadeUp, StudyBench, killed_at_any_moment

EPOCHS = 8
BUDGET = 6.0
BETA, LEARNED = Beta(alpha=1.0), LearnedConfig()
BASE = TrainingConfig("digits", "digits_cnn", NoMix(), epochs=EPOCHS, meta_size=100)
SETTINGS = SearchSettings(startup=2, min_epochs=2, reduction=2)
GRID = tuple(Fixed(lam=lam) for lam in (0.1, 0.2, 0.3, 0.4, 0.5))
STRATEGIES: dict[str, Strategy] = {
    "once": Listed((LEARNED,)),
    "grid": Listed(GRID),
    "random": Sampled(BETA, BETA_ALPHA, "random", halving=False),
    "random-asha": Sampled(BETA, BETA_ALPHA, "random"),
    "tpe": Sampled(BETA, BETA_ALPHA, halving=False),
    "tpe-asha": Sampled(BETA, BETA_ALPHA),
    "joint": Sampled(BETA, {**BETA_ALPHA, **OPTIMISATION}),
    "outer": Sampled(LEARNED, {**OPTIMISATION, **LEARNED_STEP}),
    "population": Evolved(),
}


def make_plan(*keys: str, seeds: int = 2, budget: float = BUDGET) -> Plan:
    rows = [StudyRow(Row(key, key, key, "extra"), STRATEGIES[key]) for key in keys or STRATEGIES]
    return Plan("contrast", rows, ["digits"], range(seeds), {"digits": BASE}, SETTINGS, budget)


def made_up_error(cell: Cell, epoch: int) -> float:
    """Best at α = 0.7 and lr = 0.05, by a seed's own luck; diverges from lr = 0.2 on."""
    training = cell.training
    policy = training.policy
    lam = getattr(policy, "lam", None) or getattr(policy, "alpha", None) or 0.4
    luck = math.sin(17 * cell.seed + 9 * lam + epoch)
    return 9 + 5 * math.log(lam / 0.7) ** 2 + math.log(training.lr / 0.05) ** 2 + 30 / epoch + luck


def made_up(cell: Cell) -> MadeUp:
    """Epochs (of a population: segments), ending and result of a made-up training."""
    if cell.population is not None:
        members = cell.population.members
        history = [
            {
                "epoch": float(segment),
                "val_error": 50.0 / segment + cell.seed,
                "test_error": 51.0 / segment,
                "train_seconds": 0.5 * segment * members,
                "samples_seen": 100.0 * segment * members,
                "epochs_trained": float(segment * members),
            }
            for segment in range(1, EPOCHS + 1)
        ]
        cost = PartialResult.of(history).to_dict() | {"epochs": EPOCHS * members}
        return history, "finished", result(**cost, val_error=6.0, test_error=7.0, lineage=[])
    failed = cell.training.lr >= 0.2
    history = [
        {
            "epoch": float(epoch),
            "val_error": made_up_error(cell, epoch),
            "train_seconds": 0.5 * epoch,
            "samples_seen": 100.0 * epoch,
        }
        for epoch in range(1, 2 if failed else EPOCHS + 1)
    ]
    partial = PartialResult.of(history)
    if failed:
        return history, "diverged", partial
    error = history[-1]["val_error"]
    whole = result(**partial.to_dict(), val_error=error, test_error=error + 1)
    return history, "finished", whole


def bench_on(output: Path, plan: Plan) -> StudyBench:
    return StudyBench(output, plan, made_up)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> StudyBench:
    bench = bench_on(tmp_path_factory.mktemp("complete"), make_plan())
    assert bench.drive()
    return bench


# What each trains


def test_each_strategy_spends_its_budget_and_no_training_starts_beyond(
    complete: StudyBench,
) -> None:
    assert {(c.method, c.seed) for c in complete.cells} == {
        (k, s) for k in STRATEGIES for s in (0, 1)
    }
    records = {r.cell: r for r in complete.run.records}
    assert len(records) == len(complete.run.records)
    for key in STRATEGIES:
        for seed in (0, 1):
            cost = []
            for cell in complete.cells:
                if (cell.method, cell.seed) != (key, seed):
                    continue
                record = records[cell]
                epochs = record.result.epochs + (record.status == "diverged")
                cost.append(
                    (4.5 if cell.training.policy == LEARNED or key == "outer" else 1) * epochs
                )
            assert sum(cost[:-1]) < BUDGET * EPOCHS
            if key not in ("once", "grid"):
                assert sum(cost) >= BUDGET * EPOCHS
    statuses = {
        key: Counter(r.status for cell, r in records.items() if cell.method == key)
        for key in STRATEGIES
    }
    assert statuses["once"] == {"finished": 2}
    assert statuses["grid"] == {"finished": 10}
    assert statuses["population"] == {"finished": 2}
    assert statuses["random"] == statuses["tpe"] == {"finished": 12}
    for key in ("random-asha", "tpe-asha", "joint", "outer"):
        assert statuses[key]["pruned"] > 0
    assert sum(statuses["joint"].values()) > 12
    assert any("diverged" in statuses[key] for key in ("joint", "outer"))


def test_every_training_of_a_seed_is_of_that_seed_and_of_no_table(complete: StudyBench) -> None:
    for cell in complete.cells:
        assert cell.purpose == "search"
        assert cell.seed in (0, 1)
        policy, plain = cell.training.policy, replace(BASE, seed=cell.seed)
        ours = {
            "joint": {"lr": cell.training.lr, "weight_decay": cell.training.weight_decay},
            "outer": {"lr": cell.training.lr, "weight_decay": cell.training.weight_decay},
        }.get(cell.method, {})
        assert cell.training == replace(plain, policy=policy, **ours)
        kind = {"once": "learned", "outer": "learned", "grid": "fixed"}.get(cell.method, "beta")
        assert policy.kind == kind


def test_what_is_searched_varies_within_its_bounds(complete: StudyBench) -> None:
    spaces = {key: s.space for key, s in STRATEGIES.items() if isinstance(s, Sampled)}
    for key, space in spaces.items():
        cells = [c for c in complete.cells if c.method == key]
        for name, bounds in space.items():
            values = [
                getattr(c.training, name, None)
                or getattr(c.training.policy, name, None)
                or getattr(c.training.policy.reading, name)
                for c in cells
            ]
            assert len(set(values)) == len(values)
            assert all(bounds.low <= value <= bounds.high for value in values)


def test_seeds_search_for_themselves_and_share_no_draw(complete: StudyBench) -> None:
    for key in ("random", "tpe"):
        alphas = {
            seed: {
                c.training.policy.alpha for c in complete.cells if (c.method, c.seed) == (key, seed)
            }
            for seed in (0, 1)
        }
        assert not alphas[0] & alphas[1]


def test_random_and_tpe_start_alike_and_part_when_there_is_something_to_learn(
    complete: StudyBench,
) -> None:
    drawn = {
        key: [c.training.policy.alpha for c in complete.cells if (c.method, c.seed) == (key, 0)]
        for key in ("random", "random-asha", "tpe")
    }
    assert drawn["random"][:2] == drawn["tpe"][:2]
    assert not set(drawn["random"][2:]) & set(drawn["tpe"][2:])
    # Random draws look at no result: halving lets more of the same through.
    assert drawn["random"] == drawn["random-asha"][: len(drawn["random"])]


def test_a_grid_goes_in_its_order_and_stops_with_the_budget(tmp_path: Path) -> None:
    bench = bench_on(tmp_path, make_plan("grid", seeds=1, budget=2.5))
    assert bench.drive()
    assert [c.training.policy.lam for c in bench.cells] == [0.1, 0.2, 0.3]


def test_a_policy_that_is_listed_twice_is_trained_once() -> None:
    search = Listed((GRID[0], GRID[0], GRID[1])).search(BASE, "grid", SETTINGS, 3.0)
    cells: list[Cell] = []
    run_through(search, lambda cell: made_up(cell)[1:], cells.append)
    assert [cell.training.policy for cell in cells] == [GRID[0], GRID[1]]


def test_a_population_is_as_large_as_the_budget(tmp_path: Path) -> None:
    bench = bench_on(tmp_path, make_plan("population", seeds=1, budget=7.9))
    assert bench.drive()
    [cell] = bench.cells
    assert cell.population is not None
    assert (cell.population.members, cell.population.segment) == (7, 1)
    assert Cell.from_dict(cell.to_dict()) == cell
    assert cell.id != replace(cell, population=None).id
    assert cell.id != replace(cell, population=replace(cell.population, factor=2.0)).id
    assert CellStore(tmp_path).records()[0].cell == cell


def test_the_progress_ends_with_what_was_trained(complete: StudyBench) -> None:
    progress = complete.progress
    assert progress.total == progress.done + progress.failed == len(complete.run.records)


def test_the_costly_searches_start_first(tmp_path: Path) -> None:
    bench = bench_on(tmp_path, make_plan("once", "grid", "tpe"))
    keys = [bench.run.next() for _ in range(6)]
    assert [(c.method, c.seed) for c in keys if c is not None] == [
        (method, seed) for method in ("tpe", "grid", "once") for seed in (0, 1)
    ]


def plan_with_zero(space: Space = BETA_ALPHA) -> Plan:
    """Draws of α = 0, one of six, are the same training again."""
    rows = [StudyRow(Row("zero", "zero", "", "extra"), Sampled(BETA, space, "random", False))]
    search = replace(SETTINGS, with_zero=True)
    return Plan("contrast", rows, ["digits"], [0], {"digits": BASE}, search, 12.0)


def test_a_training_that_is_drawn_again_is_paid_once(tmp_path: Path) -> None:
    plan = plan_with_zero()
    bench = bench_on(tmp_path, plan)
    assert bench.drive()
    alphas = [cell.training.policy.alpha for cell in bench.cells]
    assert len(set(alphas)) == len(alphas) == 12
    drawn = plan.open_searches()["zero", "digits", 0]
    assert isinstance(drawn, SpaceSearch)
    run_through(drawn, lambda cell: made_up(cell)[1:])
    values = [BETA_ALPHA["alpha"].with_zero().value(t.params["alpha"]) for t in drawn.study.trials]
    assert values.count(0.0) > 1  # or this would show little
    assert list(dict.fromkeys(values)) == alphas
    [curve] = curves(plan, bench.run.records).values()
    assert [point.units for point in curve] == list(range(1, 13))
    assert curve[-1].train_seconds == sum(r.result.train_seconds for r in bench.run.records)
    assert bench.progress.total == bench.progress.done == 12
    again = bench_on(tmp_path, plan)
    assert again.run.settled
    assert again.progress.total == again.progress.kept == len(again.tracker.ended) == 12


def test_a_search_that_has_trained_all_there_is_ends(tmp_path: Path) -> None:
    bench = bench_on(tmp_path, plan_with_zero({"epochs": Int(7, 9)}))
    assert bench.drive()
    assert sorted(cell.training.epochs for cell in bench.cells) == [7, 8, 9]


# Whatever happens


@pytest.mark.parametrize(("workers", "bundle"), [(1, 1), (2, 3), (20, 8)])
def test_workers_and_bundles_change_no_decision(
    tmp_path: Path, complete: StudyBench, workers: int, bundle: int
) -> None:
    bench = bench_on(tmp_path / "other", make_plan())
    assert bench.drive(workers=workers, bundle=bundle)
    assert bench.records == complete.records


@pytest.mark.parametrize("key", ["grid", "random-asha", "joint", "population"])
def test_a_kill_at_any_moment_changes_nothing_in_the_end(tmp_path: Path, key: str) -> None:
    plan, told = make_plan(key, seeds=1, budget=4.0), []
    for whole, again, _ in killed_at_any_moment(tmp_path, lambda out: bench_on(out, plan)):
        told = told or [curves(plan, whole.run.records)]
        told.append(curves(plan, again.run.records))
        assert told[-1] == told[0]
    assert len(told) > 9


def test_a_crashed_trial_stops_its_own_strategy_alone(
    tmp_path: Path, complete: StudyBench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = bench_on(tmp_path / "crash", make_plan())
    first = bench.run.next()
    assert first is not None
    bench.run.end(first.id, "crashed", PartialResult.of([]), "its worker died", {})
    assert bench.drive()
    assert f"{first.method} on digits stops here\n" in capsys.readouterr().err
    of_it = [c for c in bench.cells if (c.method, c.seed) == (first.method, first.seed)]
    assert of_it == []
    again = bench_on(tmp_path / "crash", make_plan())
    assert again.drive()
    assert again.records == complete.records


# Small pieces


def test_settings_go_where_they_belong() -> None:
    actual = configured(
        replace(BASE, policy=LEARNED),
        {"lr": 0.3, "weight_decay": 0.01, "step_size": 7.0, "every": 2},
    )
    reading = replace(LEARNED.reading, step_size=7.0)  # type: ignore[type-var]
    expected = LearnedConfig(reading=reading, every=2)
    assert actual == replace(BASE, lr=0.3, weight_decay=0.01, policy=expected)
    assert configured(replace(BASE, policy=BETA), {"alpha": 0.3}).policy.alpha == 0.3


def test_settings_of_a_semi_supervised_method_go_there_and_nowhere_else() -> None:
    semi = SemiSupervisedConfig("pseudo-label", 50, threshold_step=0.05)
    apl = replace(BASE, policy=BETA, semi=semi)
    actual = configured(apl, {"threshold_step": 0.2, "threshold_period": 7, "alpha": 0.3})
    expected = replace(semi, threshold_step=0.2, threshold_period=7)
    assert actual == replace(apl, semi=expected, policy=Beta(alpha=0.3))
    for name in ("labelled", "semi"):
        with pytest.raises(ValueError, match=f"cannot search over '{name}'"):
            configured(apl, {name: 1})


def test_a_space_can_follow_from_the_length_of_a_training() -> None:
    semi = SemiSupervisedConfig("pseudo-label", 50, threshold_step=0.05)
    seen: list[int] = []

    def space(epochs: int) -> Space:
        seen.append(epochs)
        return {"threshold_period": Int(epochs, epochs + 1)}

    base = replace(BASE, semi=semi)
    search = Sampled(BETA, space).search(base, "apl", SearchSettings(), 3.0)
    actual = search.next().training.semi
    assert seen == [base.epochs]
    assert actual is not None
    assert actual.threshold_period in (base.epochs, base.epochs + 1)


@pytest.mark.parametrize(
    "name", ["alpah", "policy", "kind", "reading", "step_size", "threshold_step"]
)
def test_settings_that_belong_nowhere_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"cannot search over '{name}'"):
        configured(replace(BASE, policy=BETA), {name: 1.0})


def test_a_search_needs_an_end() -> None:
    with pytest.raises(ValueError, match="a number of trials or a budget, got neither"):
        SpaceSearch(BASE, replace(SETTINGS, trials=None), BETA_ALPHA, method="m")


def test_nothing_can_be_told_about_a_list_that_does_not_run() -> None:
    with pytest.raises(RuntimeError, match=r"call next\(\) first"):
        ListSearch([], None).end("finished", PartialResult.of([]))  # type: ignore[arg-type]


def test_a_row_has_one_way_to_be_trained() -> None:
    row = Row("k", "k", "k", "extra")
    with pytest.raises(ValueError, match=r"row k selects by the meta-.*: no k\+meta"):
        with_meta_images(StudyRow(row, Evolved()))
    with pytest.raises(ValueError, match="row k has a strategy and needs a budget"):
        replace(make_plan("grid"), rows=[StudyRow(row, Evolved())], budget=None)

"""Searches in rounds: what ends first, and who is killed when, changes nothing."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import TPESampler

from core.policies import Beta, LearnedBetaConfig
from hpo.cells.cell import Cell
from hpo.cells.result import PartialResult
from hpo.search.protocol import SearchSettings
from hpo.search.space_search import SpaceSearch, alpha_search
from hpo.search.spaces import ALPHA_REACH, BETA_ALPHA, Int
from tests.hpo.search.test_space_search import BASE, EPOCHS, NOTHING, Trace, curve, trace, val_error
from tests.hpo.study.test_study_run import SEARCHED, bench_on, make_plan
from tests.support.results import result
from tests.support.study_bench import killed_at_any_moment

ROUNDS = SearchSettings(trials=10, startup=4, min_epochs=2, reduction=2, seed=50, parallel=4)


def interleaved(search: SpaceSearch, seed: int) -> tuple[Trace, int]:
    """Trains a search's cells side by side, who is next drawn at random; the trace, and most cells
    that ran at a time."""
    order, running, most = random.Random(seed), {}, 0
    while not search.done:
        if not search.running and (not running or order.random() < 0.5):
            cell = search.next()
            assert cell.id not in running
            running[cell.id] = (cell, curve(cell))
            most = max(most, len(running))
            continue
        cell, epochs = order.choice(list(running.values()))
        metrics = epochs.pop(0)
        stop = search.report([metrics], cell)
        if stop is not None:
            search.end("pruned", NOTHING, cell)
        elif not epochs:
            search.end("finished", result(val_error=metrics["val_error"]), cell)
        if stop is not None or not epochs:
            del running[cell.id]
    return trace(search), most


def handed_out(search: SpaceSearch) -> list[Cell]:
    """Asks for cells until some must end first."""
    cells: list[Cell] = []
    while not search.running:
        cells.append(search.next())
    return cells


def test_the_order_in_which_trials_end_decides_nothing() -> None:
    actual = [interleaved(alpha_search(BASE, ROUNDS), seed) for seed in range(6)]
    calm = actual[0][0]
    assert [number for number, *_ in calm] == list(range(10))
    assert {state for _, _, state, _ in calm} == {"COMPLETE", "PRUNED"}
    assert all(others == calm for others, _ in actual)
    assert max(most for _, most in actual) == 4


def test_a_round_is_stopped_by_the_rounds_before_alone() -> None:
    """By hand: rungs 2, 4, 8; at each the best half of those before and itself goes on."""
    calm, _ = interleaved(alpha_search(BASE, ROUNDS), 0)
    reached: list[dict[int, float]] = [values for *_, values in calm]
    assert all(max(values) == EPOCHS for values in reached[:4])
    for number, values in enumerate(reached):
        before = reached[: number // 4 * 4]
        for rung in (2, 4, 8):
            if rung not in values:
                break
            others = sorted([v[rung] for v in before if rung in v] + [values[rung]])
            behind = values[rung] > others[max(len(others) // 2, 1) - 1]
            assert behind == (max(values) == rung)


def test_rounds_are_suggested_as_optuna_does_by_itself() -> None:
    """By ask and tell: all of a round are asked for before the first of them is told."""
    settings = replace(ROUNDS, trials=20, halving=False)
    calm, _ = interleaved(alpha_search(BASE, settings), 0)
    study = optuna.create_study()
    alphas = []
    for start in range(0, 20, 4):
        asked = []
        for number in range(start, start + 4):
            study.sampler = TPESampler(seed=50 + number, n_startup_trials=4, constant_liar=True)
            trial = study.ask()
            alphas.append(trial.suggest_float("alpha", 0.05, 8.0, log=True))
            asked.append(trial)
        for trial in reversed(asked):
            study.tell(trial, val_error(trial.params["alpha"], EPOCHS))
    assert [alpha for _, alpha, *_ in calm] == alphas
    one_by_one, _ = interleaved(alpha_search(BASE, replace(settings, parallel=1)), 0)
    assert [alpha for _, alpha, *_ in one_by_one][:4] == alphas[:4]
    assert [alpha for _, alpha, *_ in one_by_one] != alphas


def test_equal_trials_of_a_round_are_trained_once() -> None:
    space = {"epochs": Int(1, 2)}
    base = replace(BASE, policy=Beta(1.0))
    settings = replace(ROUNDS, trials=8, parallel=8, halving=False)
    search = SpaceSearch(base, settings, space, method="m")
    cells = handed_out(search)
    assert sorted(cell.training.epochs for cell in cells) == [1, 2]
    for cell in cells:
        search.end("finished", result(val_error=float(cell.training.epochs)), cell)
    assert search.done
    values = [(t.params["epochs"], t.value) for t in search.study.trials]
    assert len(values) == 8
    assert all(epochs == value for epochs, value in values)
    assert search.best() == {"epochs": 1}


def test_one_of_several_must_be_named() -> None:
    search = alpha_search(BASE, ROUNDS)
    first = search.next()
    search.report([{"epoch": 1.0, "val_error": 3.0}])
    second = search.next()
    with pytest.raises(RuntimeError, match="call next"):
        search.report([])
    search.end("diverged", NOTHING, first)
    with pytest.raises(RuntimeError, match="call next"):
        search.end("diverged", NOTHING, first)
    search.end("diverged", NOTHING, second)
    assert not search.running


def test_trials_of_rounds_of_another_size_are_other_cells_with_the_same_training() -> None:
    sizes = [alpha_search(BASE, replace(ROUNDS, parallel=k)).next() for k in (1, 2, 4)]
    assert len({cell.id for cell in sizes}) == 3
    assert sizes[0].training == sizes[1].training == sizes[2].training
    assert [Cell.from_dict(cell.to_dict()) for cell in sizes] == sizes
    assert "parallel" not in sizes[0].to_dict()


def plan_in_rounds(**more: int):  # type: ignore[no-untyped-def]
    plan = make_plan(rows=[SEARCHED], seeds=1, **more)
    return replace(plan, search=replace(plan.search, parallel=3))


def test_a_study_hands_a_round_out_at_once_and_waits_for_all_of_it(tmp_path: Path) -> None:
    bench = bench_on(tmp_path, plan_in_rounds(trials=8))
    handed_out = [bench.run.next() for _ in range(4)]
    first, second, third, none = handed_out
    assert none is None
    assert len({cell.id for cell in (first, second, third) if cell is not None}) == 3
    for cell in (third, first):
        assert cell is not None
        bench.run.end(cell.id, "diverged", PartialResult.of([]), "NaN", {})
        assert bench.run.next() is None
    assert second is not None
    bench.run.end(second.id, "diverged", PartialResult.of([]), "NaN", {})
    assert [bench.run.next() is None for _ in range(4)] == [False, False, False, True]


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_a_study_ends_alike_on_any_number_of_workers(tmp_path: Path, workers: int) -> None:
    plan = plan_in_rounds(trials=8)
    calm = bench_on(tmp_path / "calm", plan)
    assert calm.drive(workers=3)
    other = bench_on(tmp_path / "other", plan)
    assert other.drive(workers=workers, bundle=2 if workers == 2 else 1)
    assert other.records == calm.records
    trials = [cell for cell in other.cells if cell.purpose == "search"]
    assert len(trials) == 8
    assert {cell.parallel for cell in trials} == {3}
    assert "pruned" in {record["status"] for record in calm.records}


def test_a_study_killed_at_any_moment_ends_alike(tmp_path: Path) -> None:
    plan = plan_in_rounds(trials=5)
    assert len(list(killed_at_any_moment(tmp_path, lambda out: bench_on(out, plan)))) > 20


def test_a_crashed_trial_lets_its_round_end_and_the_next_invocation_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_in_rounds(trials=8)
    calm = bench_on(tmp_path / "calm", plan)
    assert calm.drive()
    bench = bench_on(tmp_path / "crashed", plan)
    first, second = bench.run.next(), bench.run.next()
    assert first is not None
    assert second is not None
    for cell in (first, second):
        bench.run.end(cell.id, "crashed", PartialResult.of([]), "its worker ended early", {})
    third = bench.run.next()
    assert third is None or third.purpose == "final"
    said = capsys.readouterr().err
    assert said.count("the search beta-search on digits stops here") == 1
    again = bench_on(tmp_path / "crashed", plan)
    assert again.drive()
    assert again.records == calm.records


def test_what_runs_beside_a_crashed_trial_is_decided_as_ever(tmp_path: Path) -> None:
    plan = plan_in_rounds(trials=8)
    calm = bench_on(tmp_path / "calm", plan)
    assert calm.drive()
    second_round = [c.id for c in calm.cells if c.purpose == "search"][3:6]
    pruned = [r["cell_id"] for r in calm.records if r["status"] == "pruned"]
    assert set(pruned) & set(second_round[1:])  # or the test would show little
    crashed = {second_round[0].replace("-", "_"): "crashed"}
    bench = bench_on(tmp_path / "other", plan, **crashed)  # type: ignore[arg-type]
    assert bench.drive()
    status = {r["cell_id"]: r["status"] for r in bench.records}
    expected = {r["cell_id"]: r["status"] for r in calm.records}
    assert [status[name] for name in second_round[1:]] == [
        expected[name] for name in second_round[1:]
    ]
    again = bench_on(tmp_path / "other", plan)
    assert again.drive()
    assert again.records == calm.records


def test_a_trial_of_several_trainings_is_worth_their_mean() -> None:
    """The best is the one with the lowest mean; one that lost a training is worth nothing."""
    settings = replace(ROUNDS, trials=3, parallel=3, replicates=2)
    search = alpha_search(BASE, settings)
    cells = handed_out(search)
    assert [cell.seed - settings.seed for cell in cells] == [0, 1] * 3
    alphas = [cell.training.policy.alpha for cell in cells]  # type: ignore[attr-defined]
    assert alphas[::2] == alphas[1::2]
    errors = [1.0, 9.0, 4.0, 5.0, 0.0, None]
    for cell, error in reversed(list(zip(cells, errors, strict=True))):
        assert not search.done
        if error is None:
            search.end("diverged", NOTHING, cell)
        else:
            # A pruner would stop it here.
            assert search.report([{"epoch": 2.0, "val_error": 99.0}], cell) is None
            search.end("finished", result(val_error=error), cell)
    assert search.done
    assert [trial.value for trial in search.study.trials] == [5.0, 4.5, None]
    assert search.best() == {"alpha": alphas[2]}


@pytest.mark.parametrize(("ties_by_loss", "best"), [(False, 0), (True, 1)])
def test_of_equal_errors_the_lower_loss_may_decide(ties_by_loss: bool, best: int) -> None:
    settings = replace(ROUNDS, trials=4, parallel=4, replicates=2, ties_by_loss=ties_by_loss)
    search = alpha_search(BASE, settings)
    cells = handed_out(search)
    # Means: error 4, 4, 4, 5; loss 0.5, 0.3, 0.4, 0.1.
    ends = [(3, 0.4), (5, 0.6), (4, 0.3), (4, 0.3), (4, 0.1), (4, 0.7), (5, 0.1), (5, 0.1)]
    for cell, (error, loss) in zip(cells, ends, strict=True):
        history = [{"epoch": 1.0, "val_loss": 9.0}, {"epoch": 2.0, "val_loss": loss}]
        search.end("finished", result(val_error=float(error), history=history), cell)
    alphas = [cell.training.policy.alpha for cell in cells[::2]]  # type: ignore[attr-defined]
    assert search.best() == {"alpha": alphas[best]}


def test_each_data_set_may_have_draws_of_its_own() -> None:
    def first(dataset: str, **settings: Any) -> float:
        base = replace(BASE, dataset=dataset)
        cell = alpha_search(base, replace(ROUNDS, **settings)).next()
        return cell.training.policy.alpha  # type: ignore[attr-defined, no-any-return]

    assert first("digits") == first("mnist")
    assert first("digits", own_draws=True) != first("mnist", own_draws=True)
    assert first("digits", own_draws=True) == first("digits", own_draws=True)


def test_zero_is_one_of_the_values() -> None:
    settings = replace(ROUNDS, trials=40, parallel=40, with_zero=True, sampler="random")
    search = alpha_search(BASE, settings)
    cells = handed_out(search)
    alphas = [cell.training.policy.alpha for cell in cells]  # type: ignore[attr-defined]
    # Of equal ones one is trained: 0 is there once, though about one draw of six is below 0.05.
    assert sorted(alphas)[0] == 0.0 < 0.05 <= sorted(alphas)[1]
    assert 28 <= len(cells) <= 38
    for cell, alpha in zip(cells, alphas, strict=True):
        search.end("finished", result(val_error=1.0 + alpha), cell)
    assert search.best() == {"alpha": 0.0}
    assert len(search.study.trials) == 40


def test_zero_is_left_out_where_the_policy_moves_its_logarithm() -> None:
    settings = replace(ROUNDS, trials=40, parallel=40, with_zero=True, sampler="random")
    learned = replace(BASE, policy=LearnedBetaConfig())
    search = SpaceSearch(learned, settings, {**BETA_ALPHA, **ALPHA_REACH}, method="learned")
    policies = [cell.training.policy for cell in handed_out(search)]
    assert len(policies) == 40
    assert min(policy.alpha for policy in policies) >= 0.05  # type: ignore[attr-defined]

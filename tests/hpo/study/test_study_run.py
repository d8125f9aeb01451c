from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from core.policies import Beta, Frozen, LearnedConfig, NoMix
from core.training.config import TrainingConfig
from core.training.result import TrainingResult
from hpo.cells.cell import Cell
from hpo.cells.record import Status
from hpo.cells.result import PartialResult
from hpo.cells.store import CellStore, StoreError
from hpo.search.protocol import SearchSettings
from hpo.search.spaces import BETA_ALPHA, OPTIMISATION
from hpo.study.plan import Plan
from hpo.study.recipes import SEARCHED_ALPHA, Searched
from hpo.study.rows import Row, StudyRow, controls
from hpo.study.variants import with_meta_images
from tests.support.results import result
from tests.support.study_bench import MadeUp, StudyBench, killed_at_any_moment

EPOCHS = 6
BASE = TrainingConfig("digits", "digits_cnn", NoMix(), epochs=EPOCHS, meta_size=100)
SEARCHED = StudyRow(Row("beta-search", "searched", "", "beta"), SEARCHED_ALPHA)
LEARNED = StudyRow(Row("metamixup", "learned", "", "learned"), LearnedConfig())
FROZEN = controls(LEARNED)[1]
ROWS = [
    StudyRow(Row("none", "none", "", "none"), NoMix()),
    StudyRow(Row("beta-1", "beta", "", "beta"), Beta(alpha=1.0)),
    SEARCHED,
    LEARNED,
    FROZEN,
    with_meta_images(SEARCHED),
]
SEARCH = SearchSettings(trials=5, startup=2, min_epochs=1, reduction=2, seed=50)


def make_plan(*datasets: str, rows: list[StudyRow] = ROWS, seeds: int = 2, trials: int = 5) -> Plan:
    names = datasets or ("digits",)
    base = {name: replace(BASE, dataset=name) for name in names}
    return Plan("table2", rows, names, range(seeds), base, replace(SEARCH, trials=trials))


def bench_on(
    output: Path, plan: Plan | None = None, data: str = "d0", **endings: Status
) -> StudyBench:
    """Returns a study whose cells end as `endings` say, by how their ids begin with _ for -."""

    def made_up(cell: Cell) -> MadeUp:
        names = [name for name in endings if cell.id.startswith(name.replace("_", "-"))]
        if not names:
            history = [made_up_epoch(cell, epoch) for epoch in range(1, EPOCHS + 1)]
            return history, "finished", made_up_result(history, cell.seed)
        trial = cell.purpose == "search"
        history = [] if trial else [made_up_epoch(cell, epoch) for epoch in (1, 2)]
        return history, endings[names[0]], PartialResult.of(history)

    return StudyBench(output, plan or make_plan(), made_up, data)


def made_up_error(cell: Cell, epoch: int) -> float:
    alpha = getattr(cell.training.policy, "alpha", 0.3)
    luck = math.sin(17 * cell.seed + len(cell.dataset) + alpha)
    return 10 + 5 * math.log(alpha / 0.7) ** 2 + 30 / epoch + luck


def made_up_epoch(cell: Cell, epoch: int) -> dict[str, float]:
    return {
        "epoch": float(epoch),
        "val_error": made_up_error(cell, epoch),
        "train_loss": 1 / epoch,
        "train_seconds": 0.5 * epoch,
        "samples_seen": 100.0 * epoch,
        "lam_mean": 0.5,
    }


def made_up_result(history: list[dict[str, float]], seed: int = 0) -> TrainingResult:
    last = history[-1]
    return result(
        test_error=last["val_error"] + 1,
        val_error=last["val_error"],
        train_loss=last["train_loss"],
        epochs=len(history),
        history=history,
        lam_quantiles=[0.1 * seed, 1 / 3, 0.9],
    )


@pytest.fixture
def complete(tmp_path: Path) -> StudyBench:
    bench = bench_on(tmp_path / "complete")
    assert bench.drive()
    return bench


def finals(bench: StudyBench) -> Counter[tuple[str, str, int]]:
    return Counter((c.method, c.dataset, c.seed) for c in bench.cells if c.purpose == "final")


# What is handed out


@pytest.mark.parametrize("workers", [1, 3, 20])
def test_every_planned_cell_is_handed_out_once(tmp_path: Path, workers: int) -> None:
    bench = bench_on(tmp_path, make_plan("digits", "mnist"))
    assert bench.drive(workers=workers)
    keys = [row.row.key for row in ROWS]
    expected = {
        (key, data, seed) for key in keys for data in ("digits", "mnist") for seed in (0, 1)
    }
    assert set(finals(bench)) == expected
    assert set(finals(bench).values()) == {1}
    trials = Counter(c.dataset for c in bench.cells if c.purpose == "search")
    assert trials == {"digits": 5, "mnist": 5}
    assert len({c.id for c in bench.cells}) == len(bench.cells) == bench.plan.size == 34
    stored = CellStore(tmp_path).records()
    assert [r.to_dict() for r in stored] == bench.records
    assert len(stored) == 34


def test_a_search_runs_one_trial_at_a_time_beside_other_cells(tmp_path: Path) -> None:
    bench = bench_on(tmp_path, make_plan("digits", "mnist"))
    assert bench.drive(workers=3)
    first = [(c.purpose, c.dataset) for c in bench.cells[:3]]
    assert first == [("search", "digits"), ("search", "mnist"), ("final", "digits")]
    assert bench.cells[2].method == "metamixup"  # the costliest of the rest
    order = [c.purpose for c in bench.cells]
    last_trial = len(order) - 1 - order[::-1].index("search")
    assert "final" in order[:last_trial]


@pytest.mark.parametrize("workers", [1, 3, 20])
def test_frozen_cells_come_after_their_source_and_draw_what_it_ended_with(
    tmp_path: Path, workers: int
) -> None:
    rows = [LEARNED, FROZEN, ROWS[0]]
    bench = bench_on(tmp_path, make_plan("digits", "mnist", rows=rows))
    assert bench.drive(workers=workers)
    order = [(c.method, c.dataset, c.seed) for c in bench.cells]
    assert len(set(order)) == len(order) == bench.plan.size == 12
    for cell in bench.cells:
        if cell.method == "metamixup-frozen":
            source = ("metamixup", cell.dataset, cell.seed)
            assert order.index(source) < order.index((cell.method, *source[1:]))
            quantiles = (0.1 * cell.seed, 1 / 3, 0.9)
            assert cell.training.policy == Frozen(quantiles=quantiles)


def test_the_searched_rows_get_the_best_alpha_of_the_trials(complete: StudyBench) -> None:
    trials = [r for r in complete.run.records if r.cell.purpose == "search"]
    assert Counter(r.status for r in trials).keys() == {"finished", "pruned"}
    best = min(
        (r for r in trials if r.status == "finished"), key=lambda r: r.trained.val_error
    ).cell.training.policy
    searched = [
        c for c in complete.cells if c.method.startswith("beta-search") and c.purpose == "final"
    ]
    assert len(searched) == 4
    assert {c.training.policy for c in searched} == {best}
    assert {(c.method, c.training.meta_in_training) for c in searched} == {
        ("beta-search", False),
        ("beta-search+meta", True),
    }


def test_searching_the_learning_rate_too_is_a_row_like_any_other(tmp_path: Path) -> None:
    """Its final cells have both values; beside it the search of α alone goes its own way."""
    recipe = Searched(Beta(alpha=1.0), {**BETA_ALPHA, "lr": OPTIMISATION["lr"]})
    joint = StudyRow(Row("joint", "α and lr searched", "", "beta"), recipe, {"width": 8})
    rows = [SEARCHED, joint, with_meta_images(joint)]
    bench = bench_on(tmp_path, make_plan(rows=rows))
    assert bench.drive()
    assert len(bench.cells) == bench.plan.size == bench.progress.total == 6 + 2 * 5
    trials = [r for r in bench.run.records if r.cell.purpose == "search"]
    of_joint = [r for r in trials if r.cell.method == "joint"]
    assert len(of_joint) == 5
    assert len({r.cell.training.lr for r in of_joint}) == 5
    for record in of_joint:
        assert (record.cell.seed, record.cell.training.width) == (SEARCH.seed, 8)
        assert not record.cell.training.meta_in_training
    best = min(
        (r for r in of_joint if r.status == "finished"), key=lambda r: r.trained.val_error
    ).cell.training
    cells = [c for c in bench.cells if c.purpose == "final" and c.method.startswith("joint")]
    assert [(c.method, c.seed) for c in cells] == [
        (key, seed) for key in ("joint", "joint+meta") for seed in (0, 1)
    ]
    for cell in cells:
        meta = cell.method == "joint+meta"
        ours = {"meta_in_training": meta, "equal_steps": meta}
        assert cell.training == replace(best, seed=cell.seed, **ours)
    lines = bench.table.set_index("method")
    actual = f"alpha={best.policy.alpha:.3g}, lr={best.lr:.3g} (search of 5 trials)"
    assert list(lines.loc[["joint", "joint+meta"], "setting"]) == [actual, actual]
    assert lines.loc["joint+meta", "search_seconds"] == lines.loc["joint", "search_seconds"] > 0
    alone = [c.training for c in bench.cells if c.method == "beta-search" and c.purpose == "final"]
    assert {(t.lr, t.width) for t in alone} == {(BASE.lr, None)}


def test_a_stopped_trial_keeps_its_curve_to_the_stop_and_no_test_error(
    complete: StudyBench,
) -> None:
    pruned = [r for r in complete.run.records if r.status == "pruned"]
    assert pruned
    for record in pruned:
        epochs = [int(m["epoch"]) for m in record.result.history]
        assert epochs == list(range(1, len(epochs) + 1))
        assert len(epochs) in (1, 2, 4)  # the rungs
        assert record.result.train_seconds == 0.5 * len(epochs)
        assert record.result.samples_seen == 100 * len(epochs)
        assert isinstance(record.result, PartialResult)


# Tracking


def test_every_epoch_is_tracked_once_however_often_it_is_told(
    tmp_path: Path, complete: StudyBench
) -> None:
    bench = bench_on(tmp_path / "twice")
    assert bench.drive(again=True)
    assert bench.records == complete.records
    for tracker in (bench.tracker, complete.tracker):
        stated = Counter(tracker.epochs)
        expected = {
            (r.cell.id, int(m["epoch"])) for r in complete.run.records for m in r.result.history
        }
        assert set(stated) == expected
        assert set(stated.values()) == {1}
        assert sorted(tracker.started) == sorted(c.id for c in complete.cells)
        assert sorted(r.cell.id for r in tracker.ended) == sorted(tracker.started)


def test_epochs_told_after_a_stop_are_left_out(tmp_path: Path) -> None:
    """A worker tells several epochs at once and goes on until it hears that it is to stop."""
    bench = bench_on(tmp_path)
    statuses = []
    for _ in range(5):
        cell = bench.run.next()
        assert cell is not None
        assert cell.purpose == "search"
        history = [made_up_epoch(cell, epoch) for epoch in range(1, EPOCHS + 1)]
        stopped = bench.run.report(cell.id, history)
        assert bench.run.report(cell.id, history) is stopped
        bench.run.end(cell.id, "finished", made_up_result(history), None, {})
        record = bench.store.load(cell.id)
        assert record is not None
        statuses.append(record.status)
        assert record.status == ("pruned" if stopped else "finished")
        stated = [epoch for cell_id, epoch in bench.tracker.epochs if cell_id == cell.id]
        assert stated == [int(m["epoch"]) for m in record.result.history]
        assert (len(stated) < EPOCHS) == stopped
    assert set(statuses) == {"pruned", "finished"}
    assert len(bench.tracker.ended) == 5


def test_a_cell_that_does_not_run_is_stopped_and_its_ending_passed_over(tmp_path: Path) -> None:
    bench = bench_on(tmp_path)
    assert bench.run.report("unknown", [{"epoch": 1.0}])
    bench.run.end("unknown", "finished", PartialResult.of([]), None, {})
    assert bench.records == []
    assert not (tmp_path / "cells").exists()


# Going on after a kill


def test_a_kill_at_any_moment_changes_nothing_in_the_end(tmp_path: Path) -> None:
    plan, moments = make_plan(seeds=1), 0
    for whole, again, stored in killed_at_any_moment(tmp_path, lambda out: bench_on(out, plan)):
        moments += 1
        handed_out = {cell.id for cell in again.cells}
        assert handed_out | stored == {cell.id for cell in whole.cells}
        assert again.progress.kept == len(stored)
        assert {r.cell.id for r in again.tracker.ended} == stored | handed_out
        assert len(again.tracker.ended) == len(whole.cells)
    assert moments > 50
    pd.testing.assert_frame_equal(again.table, whole.table)


def test_settled_says_whether_anything_is_left_to_train(
    tmp_path: Path, complete: StudyBench
) -> None:
    again = bench_on(tmp_path / "complete")
    assert again.run.settled
    assert again.run.settled
    assert again.run.next() is None
    assert again.run.finished
    assert again.records == complete.records
    pd.testing.assert_frame_equal(again.table, complete.table)
    for cell in complete.cells:
        folder = tmp_path / "complete" / "cells" / cell.id
        (folder / "result.json").rename(folder / "away")
        bench = bench_on(tmp_path / "complete")
        assert not bench.run.settled
        assert bench.run.next() == cell  # asked first or not, it is handed out
        (folder / "away").rename(folder / "result.json")


def test_more_seeds_train_only_what_is_new(tmp_path: Path, complete: StudyBench) -> None:
    again = bench_on(tmp_path / "complete", make_plan(seeds=3))
    assert again.drive()
    assert {c.seed for c in again.cells} == {2}
    assert len(again.cells) == len(ROWS)


def test_checkpoints_go_when_a_cell_is_done(tmp_path: Path) -> None:
    bench = bench_on(tmp_path, make_plan(trials=1, seeds=1, rows=ROWS[:2]))
    cell = bench.run.next()
    assert cell is not None
    folder = bench.store.directory(cell.id)
    folder.mkdir(parents=True)
    for name in ("checkpoint.pt", "checkpoint.previous.pt", ".checkpoint.pt.123"):
        (folder / name).write_bytes(b"")
    bench.run.end(cell.id, "finished", made_up_result([made_up_epoch(cell, 1)]), None, {})
    assert [path.name for path in folder.iterdir()] == ["result.json"]
    (folder / ".checkpoint.pt.77").write_bytes(b"")  # by a worker that was stopped late
    bench.run.tidy()
    assert [path.name for path in folder.iterdir()] == ["result.json"]


# What goes wrong


def test_a_crashed_cell_is_not_stored_and_is_tried_again(
    tmp_path: Path, complete: StudyBench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = bench_on(tmp_path / "crashing", beta_1="crashed")
    assert bench.drive()
    crashed = [r for r in bench.run.records if r.status == "crashed"]
    assert {(r.cell.method, r.cell.seed) for r in crashed} == {("beta-1", 0), ("beta-1", 1)}
    assert all(len(r.result.history) == 2 for r in crashed)
    assert bench.progress.failed == 2
    said = capsys.readouterr().err
    for record in crashed:
        assert bench.store.load(record.cell.id) is None
        assert f"{record.cell.id} crashed: it crashed\n" in said
    assert len(bench.records) == bench.plan.size

    again = bench_on(tmp_path / "crashing")
    assert not again.run.settled
    assert again.drive()
    assert {c.id for c in again.cells} == {r.cell.id for r in crashed}
    assert again.records == complete.records


def test_a_crash_keeps_the_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    bench = bench_on(tmp_path, make_plan(rows=ROWS[:1]))
    cell = bench.run.next()
    assert cell is not None
    folder = bench.store.directory(cell.id)
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_bytes(b"")
    bench.run.end(cell.id, "crashed", PartialResult.of([]), "out of memory", {})
    bench.run.tidy()
    assert [path.name for path in folder.iterdir()] == ["checkpoint.pt"]


def test_a_crashed_trial_stops_its_search_until_the_next_time(
    tmp_path: Path, complete: StudyBench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = bench_on(tmp_path)
    first = bench.run.next()
    assert first is not None
    bench.run.end(first.id, "crashed", PartialResult.of([]), "its worker ended early", {})
    assert bench.drive()
    # Going on without it would be another search than the one that is continued here.
    trials = [r for r in bench.run.records if r.cell.purpose == "search"]
    assert [r.cell for r in trials] == [first]
    assert f"the search beta-search on {first.dataset} stops here" in capsys.readouterr().err
    again = bench_on(tmp_path)
    assert again.run.next() == first
    again = bench_on(tmp_path)
    assert again.drive()
    assert again.records == complete.records


def test_cells_of_other_data_are_refused(tmp_path: Path) -> None:
    assert bench_on(tmp_path, make_plan(rows=ROWS[:1]), data="d0").drive()
    assert bench_on(tmp_path, make_plan(rows=ROWS[:1]), data="d0").run.settled
    with pytest.raises(StoreError, match=r"fingerprint d0, now d1.*another output folder"):
        bench_on(tmp_path, make_plan(rows=ROWS[:1]), data="d1")


def test_a_diverged_cell_is_kept_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = bench_on(tmp_path, make_plan(rows=ROWS[:2]), none="diverged")
    assert bench.drive()
    [seed_0, seed_1] = [r for r in bench.run.records if r.status == "diverged"]
    assert (seed_0.error, seed_0.cell.method, seed_1.cell.seed) == ("it diverged", "none", 1)
    said = capsys.readouterr().err
    assert f"{seed_0.cell.id} diverged: it diverged\n" in said
    assert f"{seed_1.cell.id} diverged: it diverged\n" in said
    assert bench_on(tmp_path, make_plan(rows=ROWS[:2])).run.settled


def test_a_search_without_a_result_costs_its_rows_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan("digits", "mnist", trials=3)
    bench = bench_on(tmp_path, plan, beta_search_trial_digits="diverged")
    assert bench.drive()
    said = capsys.readouterr().err
    assert "none of the 3 trials of the search on digits finished" in said
    assert "the 4 trainings that need its result are left out" in said
    methods = {dataset: {m for m, d, _ in finals(bench) if d == dataset} for dataset in plan.base}
    assert methods == {
        "digits": {"none", "beta-1", "metamixup", "metamixup-frozen"},
        "mnist": {row.row.key for row in ROWS},
    }
    table = bench.table.set_index(["dataset", "method"]).n_seeds
    assert table["digits", "beta-search"] == 0
    assert table["digits", "none"] == table["mnist", "beta-search+meta"] == 2
    # Every planned cell is accounted for: 3 diverged trials and 4 cells left out, the rest done.
    assert (bench.progress.failed, bench.progress.done) == (7, plan.size - 7)

    again = bench_on(tmp_path, plan)
    assert again.run.settled
    assert again.progress.kept + again.progress.failed == plan.size


@pytest.mark.parametrize("ending", ["diverged", "crashed"])
def test_a_learned_training_that_fails_costs_its_frozen_one(
    tmp_path: Path, ending: Status, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan("digits", "mnist", rows=[LEARNED, FROZEN])
    bench = bench_on(tmp_path, plan, metamixup_digits_s1=ending)
    assert bench.drive()
    frozen = {(d, s) for m, d, s in finals(bench) if m == "metamixup-frozen"}
    assert frozen == {("digits", 0), ("mnist", 0), ("mnist", 1)}
    [said] = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert said.startswith("metamixup-digits-s1-")
    assert f"{ending}; what draws from what it learned is left out: metamixup-frozen" in said
    assert (bench.progress.failed, bench.progress.done) == (2, plan.size - 2)

    again = bench_on(tmp_path, plan)
    if ending == "diverged":
        assert again.run.settled
        assert again.progress.kept + again.progress.failed == plan.size
    else:  # tried again, and now its λ are there
        assert again.drive()
        assert [(c.method, c.seed) for c in again.cells] == [
            ("metamixup", 1),
            ("metamixup-frozen", 1),
        ]
        assert again.progress.kept + again.progress.done == plan.size


def test_a_learned_training_stored_without_quantiles_has_no_frozen_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(rows=[LEARNED, FROZEN], seeds=1)
    assert bench_on(tmp_path, make_plan(rows=[LEARNED], seeds=1)).drive()
    [record] = CellStore(tmp_path).records()
    CellStore(tmp_path).save(replace(record, result=replace(record.trained, lam_quantiles=[])))
    assert bench_on(tmp_path, plan).run.settled
    said = capsys.readouterr().err
    assert "was stored without the quantiles of λ (delete " in said
    assert "left out: metamixup-frozen" in said


def test_a_full_disk_ends_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    bench = bench_on(tmp_path)
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(StoreError, match="without --fresh: finished cells are kept"):
        bench.drive()
    assert bench.tracker.ended == []  # nothing is tracked as done that is not stored


def test_the_lowest_error_shown_is_of_the_validation_images(complete: StudyBench) -> None:
    eligible = [
        r
        for r in complete.run.records
        if r.status == "finished" and not r.cell.training.meta_in_training
    ]
    best = min(eligible, key=lambda r: r.trained.val_error)
    assert complete.progress.best == (best.trained.val_error, best.cell.method)
    assert (complete.progress.total, complete.progress.done) == (17, 17)
    assert complete.progress.running == 0

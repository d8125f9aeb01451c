"""Somebody's functions compared: numbers by hand and by simulation, kills, failures, records."""

from __future__ import annotations

import math
import random
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import hpo
from hpo.analyses.comparison import Comparison, compared
from hpo.cells.trials import Report
from hpo.report.statistics import detectable_difference
from hpo.study.progress import SECONDS
from hpo.study.study_run import StudyError
from hpo.tracking.store import mlflow_settings
from mlflow import MlflowClient
from tests.support.stores import client_of, tracked_runs

Function = Callable[[int, Report], float]


def calm(seed: int, report: Report) -> float:
    for step in range(3):
        report(loss=1.0 / (1 + step))
    return 10.0 + seed % 3


def other(seed: int, report: Report) -> float:
    return calm(seed, report) + 1.0 + 0.5 * (seed % 2)


def run(functions: dict[str, Function], output: Path, **options: Any) -> Comparison:
    return hpo.compare(functions, output=output, **{"seeds": 6, "workers": 0, **options})


def test_differences_by_hand_and_what_is_written(tmp_path: Path) -> None:
    result = run({"a": calm, "b": other}, tmp_path)
    [line] = result.table.to_dict("records")
    differences = [-1.0, -1.5] * 3
    assert (line["first"], line["second"], line["n"]) == ("a", "b", 6)
    assert line["difference"] == pytest.approx(-1.25)
    half = stats.t.ppf(0.975, 5) * np.std(differences, ddof=1) / math.sqrt(6)
    assert (line["ci_low"], line["ci_high"]) == pytest.approx((-1.25 - half, -1.25 + half))
    assert line["p_value"] == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    assert line["p_holm"] == line["p_value"]
    assert line["detectable"] == pytest.approx(detectable_difference(differences))
    assert pd.read_csv(tmp_path / "compare.csv")["n"].tolist() == [6]
    assert len(pd.read_csv(tmp_path / "compare-values.csv")) == 12
    assert (tmp_path / "compare.md").read_text() == str(result)
    assert "| a − b | −1.25 [" in str(result)


def test_what_ended_is_kept_and_everything_is_recorded_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def counted(seed: int, report: Report) -> float:
        calls.append(seed)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return other(seed, report)

    with pytest.raises(KeyboardInterrupt):
        run({"a": calm, "b": counted}, tmp_path)
    result = run({"a": calm, "b": counted}, tmp_path)
    assert calls == [0, 1, 2, 3, 3, 4, 5]  # the interrupted one again, and no other
    pd.testing.assert_frame_equal(
        result.table, run({"a": calm, "b": other}, tmp_path / "calm").table
    )
    more = run({"a": calm, "b": counted, "c": calm}, tmp_path, seeds=7)
    assert calls[7:] == [6]
    assert more.table["n"].tolist() == [7, 7, 7]
    client = client_of(tmp_path)
    with mlflow_settings():
        runs = list(client.search_runs([client.get_experiment_by_name("compare").experiment_id]))
        children = [run for run in runs if run.data.tags["kind"] == "trial"]
        steps = client.get_metric_history(children[0].info.run_id, "loss")
    assert len(children) == 21
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert [point.step for point in steps] == [1, 2, 3]  # as progress counts them
    [parent] = [run for run in runs if run.data.tags["kind"] == "comparison"]
    assert parent.data.metrics["a minus c"] == 0.0
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}


def test_reports_are_recorded_whatever_their_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["acc@1", "acc#1", "top@5", "acc/top:1", "val_loss", "val@loss", "", "/a", "ü" * 300]

    def reporting(seed: int, report: Report) -> float:
        report(**{name: float(at) for at, name in enumerate(names)})
        return float(seed)

    run({"a": reporting, "b": calm}, tmp_path, seeds=2)
    runs = tracked_runs(tmp_path)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert not caplog.records
    metrics = next(r.data.metrics for r in runs if r.info.run_name == "a-s1")
    alone = {"top_5": 2.0, "acc/top:1": 3.0, "val_loss": 4.0, "_": 6.0, "_a": 7.0, "ü" * 240: 8.0}
    assert alone.items() <= metrics.items()
    shared = sorted(name.rpartition("_")[0] for name in metrics.keys() - alone.keys())
    assert shared == ["", "", "acc_1", "acc_1", "val_loss"]
    assert len(metrics) == len(names) + 2  # the value and the seconds


def test_reports_are_told_while_trials_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SECONDS, "log", 0.0)

    def slow(seed: int, report: Report) -> float:
        report(loss=0.125, epoch=1)
        assert f"compare {2 * seed + 1} ended · b, seed {seed}, step 1: loss 0.125, epoch 1" in (
            capsys.readouterr().err
        )
        return float(seed)

    run({"a": calm, "b": slow}, tmp_path, seeds=2)
    assert "compare 4/4 · b, seed 1: 1" in capsys.readouterr().err


def test_a_function_that_returns_no_number_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"'b' failed .* it returned NoneType, and must return"):
        run({"a": calm, "b": lambda seed, report: None}, tmp_path, seeds=2)


def test_a_function_that_exits_fails_alone(tmp_path: Path) -> None:
    """A signal's exit, which is a class of its own, ends the comparison as ever."""

    def leaves(seed: int, report: Report) -> float:
        if seed == 2:
            sys.exit(3)
        return other(seed, report)

    result = run({"a": calm, "b": leaves}, tmp_path)
    assert result.values["error"].dropna().tolist() == ["RuntimeError: it called sys.exit(3)"]
    assert result.table["n"].tolist() == [5]

    def ended(seed: int, report: Report) -> float:
        signal.raise_signal(signal.SIGTERM)
        return 0.0

    with pytest.raises(SystemExit) as caught:
        run({"a": calm, "c": ended}, tmp_path)
    assert caught.value.code == 128 + signal.SIGTERM


def test_a_trial_that_fails_is_named_and_run_again(tmp_path: Path) -> None:
    bad = {2: True}

    def breaks(seed: int, report: Report) -> float:
        if bad.get(seed):
            raise ZeroDivisionError("no batch\nin detail")
        return math.nan if seed == 3 and bad else other(seed, report)

    result = run({"a": calm, "b": breaks}, tmp_path)
    assert result.table["n"].tolist() == [4]
    errors = result.values["error"].dropna().tolist()
    assert errors == ["ZeroDivisionError: no batch", "returned nan, which is no finite number"]
    bad.clear()
    assert run({"a": calm, "b": breaks}, tmp_path).table["n"].tolist() == [6]
    bad.update(dict.fromkeys(range(6), True))
    with pytest.raises(RuntimeError, match=r"'c' failed with every seed; .* ZeroDivisionError: no"):
        run({"a": calm, "c": breaks}, tmp_path)


def test_a_trial_has_one_run_however_often_it_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose process died between the first and the last word to the store, and one that
    failed twice before it ended well."""
    failing = True

    def breaks(seed: int, report: Report) -> float:
        report(loss=5.0 if failing else 0.5)
        if failing and seed == 1:
            raise ZeroDivisionError("no batch")
        return float(seed)

    def children() -> dict[str, Any]:
        client = client_of(tmp_path)
        with mlflow_settings():
            experiment = client.get_experiment_by_name("compare").experiment_id
            found = client.search_runs([experiment], "tags.kind = 'trial'")
        assert len({run.info.run_name for run in found}) == len(found)
        return {run.info.run_name: run for run in found}

    with monkeypatch.context() as dying:
        log = MlflowClient.log_batch

        def dies(client: MlflowClient, run: str, **metrics: Any) -> None:
            log(client, run, **metrics)
            raise KeyboardInterrupt

        dying.setattr(MlflowClient, "log_batch", dies)
        with pytest.raises(KeyboardInterrupt):
            run({"a": calm, "b": breaks}, tmp_path, seeds=3)
    assert {run.info.status for run in children().values()} == {"RUNNING"}
    for _ in range(2):
        run({"a": calm, "b": breaks}, tmp_path, seeds=3)
        runs = children()
        failed = runs.pop("b-s1")
        assert (failed.info.status, failed.data.tags["error"]) == (
            "FAILED",
            "ZeroDivisionError: no batch",
        )
        assert failed.data.metrics["loss"] == 5.0
        assert [run.info.status for run in runs.values()] == ["FINISHED"] * 5
    failing = False
    run({"a": calm, "b": breaks}, tmp_path, seeds=3)
    ended = children()["b-s1"]
    assert ended.info.status == "FINISHED"
    assert "error" not in ended.data.tags
    assert (ended.data.metrics["loss"], ended.data.metrics["value"]) == (0.5, 1.0)


def test_where_no_test_is_possible_no_other_p_is_larger() -> None:
    values = {"a": {s: float(s % 3) for s in range(8)}, "b": {s: s % 2 - 1.0 for s in range(8)}}
    [pair] = compared(values).to_dict("records")
    assert pair["p_holm"] == pair["p_value"] < 0.5
    more = compared({**values, "failed": {0: 1.0}}).set_index(["first", "second"])
    assert more.loc[("a", "b"), "p_holm"] == pair["p_holm"]
    for first in ("a", "b"):
        assert more.loc[(first, "failed"), ["p_value", "p_holm"]].isna().all()


def test_an_interval_that_is_not_there_or_without_width_is_not_narrow(tmp_path: Path) -> None:
    """Values in steps differ alike by chance; functions that always do are believed later."""

    def steps(seed: int, report: Report) -> float:
        return 0.28 * (seed == 7)

    alike = run({"a": lambda seed, report: 0.0, "b": steps}, tmp_path, seeds=2, until=0.3)
    assert alike.table["n"].tolist() == [8]  # after 2, 3 and 5
    same = run({"a": calm, "b": calm}, tmp_path / "same", seeds=2, until=0.3)
    assert same.table["n"].tolist() == [12]
    whole = {name: (lambda seed, report, by=by: by + seed % 3) for by, name in enumerate("ab")}
    constant = run(whole, tmp_path / "constant", seeds=3, until=0.3)
    assert constant.table["n"].tolist() == [12]
    assert constant.table["difference"].tolist() == [-1.0]

    def fails_late(seed: int, report: Report) -> float:
        if seed in (1, 2, 3, 4):
            raise ValueError("not this one")
        return calm(seed, report)

    late = run({"a": fails_late, "b": other}, tmp_path / "late", seeds=2, until=5.0, most_seeds=20)
    assert late.table["n"].tolist()[0] > 1


def noisy(scale: float) -> Function:
    return lambda seed, report: random.Random(f"{seed} {scale}").gauss(0.0, scale)


def test_seeds_are_added_until_the_interval_is_narrow_enough(tmp_path: Path) -> None:
    functions = {"a": noisy(1.0), "b": noisy(2.0)}
    result = run(functions, tmp_path, seeds=4, until=1.6, most_seeds=200)
    [line] = result.table.to_dict("records")
    assert (line["ci_high"] - line["ci_low"]) / 2 <= 1.6
    assert result.looks > 1
    assert line["n"] in (6, 9, 14, 21, 32, 48, 72, 108, 162, 200)
    wider = stats.t.ppf(1 - 0.025 * 6 / (math.pi * result.looks) ** 2, line["n"] - 1)
    values = result.values.pivot(index="seed", columns="function", values="value")
    spread = (values["a"] - values["b"]).std() / math.sqrt(line["n"])
    assert (line["ci_high"] - line["ci_low"]) / 2 == pytest.approx(wider * spread)
    assert f"hold for all looks together, here {result.looks}." in str(result)
    few = run(functions, tmp_path / "few", seeds=4, until=1e-6, most_seeds=7)
    assert few.table["n"].tolist() == [7]


def test_the_report_of_a_first_look_says_that_others_could_have_followed(tmp_path: Path) -> None:
    """Its level is 6/π² of 5 %, so that the interval is one of 96.96 %."""
    functions = {"a": calm, "b": other}
    result = run(functions, tmp_path, until=100.0)
    assert result.looks == 1
    assert "Intervals and p hold for all looks together, here 1." in str(result)
    assert (tmp_path / "compare.md").read_text() == str(result)
    assert "looks together" not in str(run(functions, tmp_path / "once"))


def draw(rng: np.random.Generator, n: int) -> dict[str, dict[int, float]]:
    return {name: dict(enumerate(rng.normal(size=n))) for name in "ab"}


def test_the_p_of_a_later_look_is_for_all_looks() -> None:
    """Look k has the share 6/(π²k²) of the level, and these are 1 together."""
    values = {"a": dict(enumerate([0.0, 0.3, 0.1, 0.5])), "b": dict.fromkeys(range(4), 0.0)}
    plain = stats.ttest_1samp([0.0, 0.3, 0.1, 0.5], 0).pvalue
    assert compared(values)["p_value"][0] == pytest.approx(plain)
    expected = [plain * math.pi**2 * look**2 / 6 for look in (1, 2, 3)]
    assert expected[1] < 1 < expected[2]
    for look, p_value in enumerate(expected, start=1):
        assert compared(values, look)["p_value"][0] == pytest.approx(min(1.0, p_value))


def test_a_function_is_seldom_told_apart_from_itself_however_often_one_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Looks end at the first p < 0.05, the worst that can be done with them. Six of them together
    tell apart 4.5 of 100 at most, 18 of 400: more than 33 would come once in 2,000. Without the
    correction they tell apart 17 of 100 (20,000 t tests by SciPy alone), 68 of 400."""
    monkeypatch.setattr("hpo.analyses.comparison.detectable", lambda *_, **__: math.nan)
    rng = np.random.default_rng(0)
    once = sum(compared(draw(rng, 8))["p_holm"][0] < 0.05 for _ in range(100))
    assert 2 <= once <= 11
    repeatedly = 0
    for _ in range(400):
        values = draw(rng, 40)
        for look, n in enumerate((6, 9, 14, 21, 32, 40), start=1):
            here = {name: {s: seeds[s] for s in range(n)} for name, seeds in values.items()}
            if compared(here, look)["p_holm"][0] < 0.05:
                repeatedly += 1
                break
    assert 4 <= repeatedly <= 33


@pytest.mark.parametrize("n", [3, 8, 30])
def test_the_detectable_difference_is_found_in_four_of_five(n: int) -> None:
    """4,000 t tests at the difference that is stated for a spread of 1: 80 % within 3 standard
    errors of the simulation."""
    rng = np.random.default_rng(n)
    unit = np.sqrt(n / (n - 1)) * np.tile([-1.0, 1.0], n)[:n] if n % 2 == 0 else None
    spread = unit if unit is not None else stats.norm.ppf((np.arange(n) + 0.5) / n)
    stated = detectable_difference(list(spread / np.std(spread, ddof=1)))
    samples = rng.normal(loc=stated, size=(4000, n))
    power = float((stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05).mean())
    assert abs(power - 0.8) < 3 * math.sqrt(0.16 / 4000)


@pytest.mark.parametrize("alike", [[1.0], [2.0, 2.0], [0.3 - 0.2, 0.8 - 0.7], [0.0, 0.0]])
def test_there_is_no_detectable_difference_without_spread(alike: list[float]) -> None:
    assert math.isnan(detectable_difference(alike))


@pytest.mark.parametrize(
    ("functions", "options", "message"),
    [
        ({"a": calm}, {}, "needs two functions or more, got 1"),
        ([calm, other], {}, "functions must be a dictionary of names, got list"),
        ({"a": calm, "b": calm}, {"seeds": 2.5}, "seeds must be a whole number, got 2.5"),
        ({"a": calm, "b": calm}, {"threads": 1.5}, "threads must be a whole number, got 1.5"),
        ({"a": calm, "b": calm}, {"until": "3"}, "until must be a number, got '3'"),
        ({"a": calm, "b": calm}, {"gpus": -1}, "gpus must be at least 0 and finite, got -1"),
        ({"a": calm, "b": 3}, {}, "must be callable and have names, got 'b': 3"),
        (
            {"a": calm, "b" * 201: calm},
            {},
            "'b{20}'… is 201 bytes long as a file's; give one of 200",
        ),
        ({"a": calm, "щ" * 34: calm}, {}, "is 204 bytes long"),
        ({"a": calm, "b": calm}, {"seeds": 1}, "seeds must be at least 2"),
        ({"a": calm, "b": calm}, {"until": 0.0}, "until must be positive and finite, got 0.0"),
        ({"a": calm, "b": calm}, {"until": 1.0, "most_seeds": 3}, "at least seeds=6, got 3"),
        ({"a": calm, "b": calm}, {"workers": -1}, "workers must be at least 0, got -1"),
        ({"a": calm, "b": calm}, {"threads": 0}, "threads must be at least 1, got 0"),
    ],
)
def test_bad_input(functions: Any, options: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run(functions, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_names_that_look_alike_as_files_are_two(tmp_path: Path) -> None:
    names = ["Ω", ":9", "%3a9", "ä" * 30, "ä" * 29 + "ö"]
    functions = {
        name: (lambda seed, report, by=by: by + 0.1 * seed) for by, name in enumerate(names)
    }
    first = run(functions, tmp_path, seeds=3)
    trained: list[int] = []
    again = run(dict.fromkeys(names, lambda seed, report: trained.append(seed)), tmp_path, seeds=3)
    assert trained == []
    pd.testing.assert_frame_equal(first.table, again.table)
    assert (again.table["difference"] != 0).all()


def test_a_file_of_another_trial_is_refused(tmp_path: Path) -> None:
    run({"a": calm, "b": other}, tmp_path, seeds=2)
    trials = tmp_path / "trials"
    (trials / "a-s0.json").write_text((trials / "b-s0.json").read_text())
    with pytest.raises(ValueError, match=r"a-s0.json cannot be read \(it is of 'b', seed 0\)"):
        run({"a": calm, "b": other}, tmp_path, seeds=2)


def test_empty_texts_name_neither_a_folder_nor_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^output names no folder \(it is empty\)"):
        hpo.compare({"a": calm, "b": calm}, output="", workers=0)
    with pytest.raises(ValueError, match=r"^tracking_uri names no store \(it is empty\)"):
        hpo.compare({"a": calm, "b": calm}, output="out", tracking_uri="", workers=0)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_sent_to_a_process_is_refused_in_a_line(tmp_path: Path) -> None:
    lock = threading.Lock()

    def holds(seed: int, report: Report) -> float:
        with lock:
            return float(seed)

    with pytest.raises(StudyError) as refused:
        run({"a": calm, "held": holds}, tmp_path, seeds=2, workers=1)
    message = str(refused.value)
    assert "\n" not in message
    assert message.startswith("function 'held' cannot be sent to a worker: TypeError: cannot")
    assert message.endswith("workers=0")
    assert run({"a": calm, "held": holds}, tmp_path, seeds=2).table["n"].tolist() == [2]


def test_a_damaged_trial_is_named(tmp_path: Path) -> None:
    run({"a": calm, "b": other}, tmp_path)
    (tmp_path / "trials" / "a-s3.json").write_text("{")
    with pytest.raises(ValueError, match=r"a-s3\.json cannot be read .*; remove it"):
        run({"a": calm, "b": other}, tmp_path)


def test_looks_of_an_earlier_call_count(tmp_path: Path) -> None:
    """The same 20 seeds, reached by more looks, are judged as strictly by a call that begins
    there; a look that was taken already is no other."""
    functions = {"a": noisy(1.0), "b": noisy(2.0)}
    first = run(functions, tmp_path, seeds=4, until=1e-6, most_seeds=20)
    second = run(functions, tmp_path, seeds=20, until=1e-6, most_seeds=20)
    assert first.looks == second.looks == 5  # at 4, 6, 9, 14 and 20
    pd.testing.assert_frame_equal(first.table, second.table)
    more = run(functions, tmp_path, seeds=21, until=1e-6, most_seeds=21)
    assert more.looks == 6
    again = run(functions, tmp_path, seeds=4, until=100.0)
    assert again.looks == 1
    (tmp_path / "trials" / "looks.json").write_text("{")
    with pytest.raises(ValueError, match=r"looks.json cannot be read .*; remove it, and looks are"):
        run(functions, tmp_path, seeds=4, until=100.0)


def test_a_folder_that_was_deleted_is_used_anew(tmp_path: Path) -> None:
    """In one process, of which MLflow keeps the old store open."""
    output = tmp_path / "out"
    for other_level in (1.0, 2.0):
        functions = {"a": calm, "b": lambda seed, report, level=other_level: level + seed}
        run(functions, output, seeds=2)
        trials = [r.data for r in trial_runs(output) if r.data.tags["function"] == "b"]
        assert sorted(d.metrics["value"] for d in trials) == [other_level, other_level + 1]
        shutil.rmtree(output)


def test_what_else_was_compared_in_a_folder_of_this_name_stays_by_itself(tmp_path: Path) -> None:
    output, uri = tmp_path / "out", f"sqlite:///{tmp_path / 'elsewhere.db'}"
    for level in (1.0, 100.0):
        functions = {"a": calm, "b": lambda seed, report, level=level: level + seed}
        run(functions, output, seeds=2, tracking_uri=uri)
        shutil.rmtree(output)
    with mlflow_settings():
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("compare").experiment_id
        runs = client.search_runs([experiment], "tags.kind = 'comparison'")
        latest = client.search_runs(
            [experiment], f"tags.`mlflow.parentRunId` = '{runs[0].info.run_id}'"
        )
    assert len(runs) == 2
    values = [r.data.metrics["value"] for r in latest if r.data.tags["function"] == "b"]
    assert sorted(values) == [100.0, 101.0]


def test_a_report_of_ones_own_hides_no_returned_value(tmp_path: Path) -> None:
    def reporting(seed: int, report: Report) -> float:
        report(value=0.9, seconds=1e9)
        report(value=0.8)
        return 5.0 + seed

    run({"a": calm, "b": reporting}, tmp_path, seeds=2)
    metrics = [r.data.metrics for r in trial_runs(tmp_path) if r.data.tags["function"] == "b"]
    assert sorted(each["value"] for each in metrics) == [5.0, 6.0]
    assert all(each["seconds"] < 1e6 for each in metrics)
    assert {each["value_"] for each in metrics} == {0.8}


def trial_runs(output: Path) -> list[Any]:
    with mlflow_settings():
        client = client_of(output)
        experiment = client.get_experiment_by_name("compare")
        assert experiment is not None
        return list(client.search_runs([experiment.experiment_id], "tags.kind = 'trial'"))

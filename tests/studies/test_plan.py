"""`studies/plan.py` as a user runs it."""

from __future__ import annotations

import re

import pytest

from hpo.bench.estimate import planned_jobs
from studies import plan, table2, table3


def test_the_plan_of_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["--preset", "paper", "--gpus", "64", "--tables", "table4"]) == 0
    shown = capsys.readouterr().out
    # 4 rows × 4 columns × 5 seeds of 200 epochs
    assert re.search(r"\| table4 \| +80 \| +16,000 \|", shown)
    assert "80 trainings" in shown
    assert "wrn_28_2, 200 epochs" in shown
    assert "20 TFLOP/s sustained" in shown


def test_table_one_has_a_column_for_each_data_set_and_architecture() -> None:
    table = plan.table("table1", "paper", epochs=3)
    assert len(table.columns) == 2 + 4 * 3
    trainings = table.columns.values()
    assert {training.epochs for training in trainings} == {3}
    assert [training.model for training in trainings if training.dataset == "imagenet"] == [
        "preact_resnet18",
        "preact_resnet34",
        "wrn_28_10",
    ]


def test_a_preset_has_all_rows_that_its_study_trains() -> None:
    """Contenders and their searches in a contest; in quick the searched Beta once more."""
    contest = plan.table("table2", "contest")
    keys = [row.row.key for row in contest.rows]
    assert set(keys) == {row.row.key for row in (*table2.rows(), *table2.CONTENDERS)}
    planned = planned_jobs(contest, 3)
    assert {"metamixup-searched", "search of metamixup-searched"} <= {*planned["row"]}
    few_labels = {row.row.key for row in plan.table("table3", "contest").rows}
    assert few_labels.issuperset(row.row.key for row in table3.CONTENDERS)
    quick = [row.row.key for row in plan.table("table2", "quick").rows]
    assert quick == [*(row.row.key for row in table2.rows()), "beta-search+meta"]
    assert len(plan.table("table2", "paper").rows) == len(table2.rows())


def test_labels_are_cut_to_what_a_preset_trains_on() -> None:
    """Of 150 training images no 4000 are labeled, and no work is below 0."""
    smoke = plan.table("table3", "smoke")
    assert [t.semi.labelled for t in smoke.columns.values() if t.semi is not None] == [50] * 4
    assert "cifar10 4000 labels, cut to 50" in smoke.columns
    assert (planned_jobs(smoke, 2)["flops"] > 0).all()
    paper = plan.table("table3", "paper").columns["cifar10 4000 labels"]
    assert paper.semi is not None
    assert paper.semi.labelled == 4000


def test_a_faster_gpu_takes_less_time(capsys: pytest.CaptureFixture[str]) -> None:
    hours = []
    for tflops in ("10", "40"):
        plan.main(["--tables", "table4", "--seeds", "1", "--gpus", "1", "--gpu-tflops", tflops])
        line = re.search(r"([\d,]+\.\d) hours on 1 GPUs", capsys.readouterr().out)
        assert line is not None
        hours.append(float(line[1].replace(",", "")))
    assert hours[0] / hours[1] == pytest.approx(4, rel=0.02)


def test_a_table_counts_once(capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for tables in ("table4", "table4, table4"):
        assert plan.main(["--tables", tables, "--seeds", "1", "--gpus", "1"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tables", "table9"], "unknown table 'table9'"),
        (["--gpus", "0"], "--gpus must be above 0 and finite, got 0"),
        (["--gpu-tflops", "-1"], "--gpu-tflops must be above 0"),
        (["--gpu-tflops", "nan"], "--gpu-tflops must be above 0 and finite, got nan"),
    ],
)
def test_what_cannot_be_planned(
    capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        plan.main(flags)
    assert message in capsys.readouterr().err

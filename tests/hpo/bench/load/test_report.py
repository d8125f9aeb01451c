from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hpo.bench.load.driver import Sample, Usage
from hpo.bench.load.report import MIB, Found, build_table, load_figure, samples_table, to_markdown
from hpo.report.study_figure import save_figure

USAGE = Usage(
    tuple(
        Sample(cells, 0.5 * cells, 400 * MIB + 2048 * cells, 0.06 * cells, 0.02 * cells)
        for cells in (0, 50, 100, 150, 200)
    )
)
CALM = Found("load-1", 200, 200, 200, 0, 0, 9.0, workers=2, alone=0.1, usage=USAGE)


def test_a_study_that_lost_nothing_is_whole() -> None:
    assert CALM.whole


@pytest.mark.parametrize(
    "fault",
    [
        {"finished": 199},
        {"runs": 199},
        {"runs": 201, "duplicates": 1},
        {"duplicates": 1},
        {"unended": 1},
        {"usage": None},
    ],
)
def test_whatever_is_missing_or_too_many_is_told(fault: dict[str, object]) -> None:
    assert not replace(CALM, **fault).whole


def test_the_overhead_is_what_a_worker_takes_beside_the_training() -> None:
    # 100 s of two workers are 1 s a cell.
    assert CALM.overhead == pytest.approx(1.0 - 0.1)
    [line] = build_table([CALM]).to_dict("records")
    assert line["overhead_seconds_cell"] == pytest.approx(0.9)
    assert line["driver_cpu_seconds_cell"] == pytest.approx(0.06)
    assert line["mlflow_seconds_cell"] == pytest.approx(0.02)
    assert line["mlflow_share"] == pytest.approx(0.04)
    assert line["memory_cell"] == pytest.approx(2048)
    assert line["lost"] == 0


def test_the_table_for_people_has_a_line_for_each_study() -> None:
    failed = replace(CALM, name="load-2", finished=150, runs=151, duplicates=1, usage=None)
    lines = to_markdown([CALM, failed]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:4]]
    assert cells[0][:7] == ["load-1", "200", "0", "200", "0", "0", "100 s"]
    assert cells[0][7:] == ["100", "900", "60", "20", "4 %", "400 → 400", "2.0"]
    assert cells[1] == ["load-2", "200", "50", "151", "1", "0", *["–"] * 8]


def test_samples_and_figure_show_every_driver(tmp_path: Path) -> None:
    other = replace(CALM, name="load-2")
    frame = samples_table([CALM, other, replace(CALM, name="load-3", usage=None)])
    assert list(frame["study"]) == ["load-1"] * 5 + ["load-2"] * 5
    assert list(frame["cells"][:5]) == [0, 50, 100, 150, 200]
    figure = load_figure([CALM, other])
    memory, seconds = figure.axes
    assert [len(axes.lines) for axes in (memory, seconds)] == [2, 2]
    assert list(seconds.lines[0].get_ydata()) == [0, 25, 50, 75, 100]
    assert save_figure(figure, tmp_path / "load.png").stat().st_size > 0
    with pytest.raises(ValueError, match="no driver"):
        load_figure([replace(CALM, usage=None)])

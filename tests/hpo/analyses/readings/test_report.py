from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from core.meta.reading import DEFAULT, PAPER
from core.policies import Beta, LearnedConfig, NoMix
from core.training.config import TrainingConfig
from hpo.analyses.readings.factorial import DesignPoint
from hpo.analyses.readings.figure import TELLING, readings_figure, telling
from hpo.analyses.readings.ranking import rank_readings
from hpo.analyses.readings.report import readings_report, to_markdown
from hpo.cells.record import CellRecord
from hpo.report.outcome import Outcome
from hpo.report.table import build_table
from hpo.search.protocol import SearchSettings
from hpo.study.plan import Plan
from hpo.study.rows import Row, StudyRow

MakeRecord = Callable[..., CellRecord]
U_SHAPE = [25, 5, *[3] * 14, 0, 0, 5, 23]
DESIGN = [DesignPoint({"projection": "before"}, "mover"), DesignPoint({"projection": "after"}, "l")]


@pytest.fixture
def outcome(make_record: MakeRecord, tmp_path: Path) -> Outcome:
    """Three seeds of two readings, one of which moves λ, and of what they are held against."""
    rows = [
        StudyRow(Row("none", "No MixUp", "", "none"), NoMix()),
        StudyRow(Row("beta-1", "MixUp", "", "beta"), Beta(alpha=1.0)),
        StudyRow(Row("mover", "Mover", "", "learned"), LearnedConfig(reading=DEFAULT)),
        StudyRow(Row("l", "Letter", "", "learned"), LearnedConfig(reading=PAPER)),
    ]
    changes = {"mover": (0.2, U_SHAPE, 5.0), "l": (0.0002, [5] * 20, 9.5)}
    records = []
    for row in rows:
        key = row.row.key
        change, histogram, level = changes.get(key, (None, [5] * 20, 8.0 + (key == "none")))
        epoch: dict[str, Any] = {} if change is None else {"lam_change": change}
        records += [
            make_record(
                key,
                seed,
                policy=row.policy,
                test_error=level + seed + 0.05 * (seed == 1),
                history=[{"epoch": 1.0, **epoch}],
                lam_histogram=histogram,
                lam_histogram_first=[5] * 20,
            )
            for seed in range(3)
        ]
    base = {"digits": TrainingConfig("digits", "cnn", NoMix())}
    plan = Plan("readings", rows, ["digits"], range(3), base, SearchSettings(trials=3))
    frame = build_table(records, [row.row for row in rows], ["digits"])
    return Outcome(plan, records, {}, frame, tmp_path)


def test_its_files_hold_the_tables(outcome: Outcome, tmp_path: Path) -> None:
    extra = readings_report(outcome, DESIGN)
    names = ["readings-ranked.csv", "readings-effects.csv", "readings-lambda.png"]
    assert [path.name for path in extra.files] == names
    assert all(path.parent == tmp_path for path in extra.files)
    ranked, effects = (pd.read_csv(path, keep_default_na=False) for path in extra.files[:2])
    assert list(ranked["method"]) == ["mover", "beta-1", "none", "l"]
    assert list(ranked["fig6"]) == ["yes", "", "", "no"]
    assert list(effects["level"]) == ["before", "after"]
    assert extra.files[2].stat().st_size > 10_000


def test_it_says_which_readings_reproduce_what(outcome: Outcome) -> None:
    text = readings_report(outcome, DESIGN).markdown
    assert "## Readings, ranked: digits" in text
    assert "### Main effects: digits" in text
    said = [line for line in text.splitlines() if line[:3] in ("- 0", "- 1", "- 2")]
    assert said == [
        "- 1 move λ by 0.01 or more on average: `mover`.",
        "- 1 show Fig. 6 in the last epoch: `mover`.",
        "- 0 show it in the first epoch alone.",
        "- 1 have the order of Table I in their means: `mover`.",
        "- 0 have it with both differences at p < 0.05 (Holm).",
        "- 1 show Fig. 6 and have that order: `mover`.",
        "- 0 are below the best Beta at p < 0.05 (Holm), trained on as many images.",
    ]
    assert "Of 2 readings" in text
    [mover] = [line for line in text.splitlines() if line.startswith("| Mover")]
    cells = [cell.strip() for cell in mover.strip("|").split("|")]
    assert cells[1:7] == ["1", "0.2000", "0.2000", "30 %", "28 %", "yes"]
    assert cells[8] == "−4.00"  # to no mixing, the first of two equals on validation
    assert cells[12:] == ["means", "1.00×", "1.00×"]


def test_no_order_is_told_without_the_rows_that_it_is_about(outcome: Outcome) -> None:
    rows = [row for row in outcome.plan.rows if row.row.key != "none"]
    less = replace(outcome, plan=replace(outcome.plan, rows=rows))
    less = replace(less, records=[r for r in outcome.records if r.cell.method != "none"])
    text = readings_report(less, DESIGN).markdown
    assert "- 1 show Fig. 6 in the last epoch: `mover`." in text
    assert "order of Table I in their means" not in text


def test_many_readings_of_a_verdict_are_counted_and_not_all_named(outcome: Outcome) -> None:
    ranked = rank_readings(outcome)
    [mover] = ranked[ranked["method"] == "mover"].to_dict("records")
    many = pd.DataFrame([{**mover, "method": f"m{i}"} for i in range(14)])
    [line] = [
        e for e in to_markdown(many, pd.DataFrame({"dataset": []})).splitlines() if "0.01" in e
    ]
    assert line.startswith("- 14 move λ by 0.01 or more on average: `m0`, `m1`")
    assert line.endswith("`m11` and 2 more.")


def axes_of(figure: Figure) -> list[Any]:
    return [ax for ax in figure.axes if ax.axison]


def test_the_figure_shows_moves_and_histograms(outcome: Outcome) -> None:
    figure = readings_figure(rank_readings(outcome), outcome.records)
    scatter, *panels = axes_of(figure)
    assert [panel.get_title().splitlines() for panel in panels] == [
        ["mover", "Fig. 6: yes"],
        ["l", "Fig. 6: no"],
        ["beta-1"],
    ]
    points = sorted(tuple(container[0].get_xydata()[0]) for container in scatter.containers)
    low, high = scatter.get_ylim()
    # Intervals of three seeds would leave the means in a corner: the means fill the panel.
    assert 6 - 3 < low < 6 < 10.5 < high < 10.5 + 3
    assert points[0] == pytest.approx((0.0002, 10.5 + 0.05 / 3))
    assert points[1] == pytest.approx((0.2, 6 + 0.05 / 3))
    assert len(points) == 2
    assert scatter.get_xscale() == "log"


def test_telling_lines_are_the_extremes_first() -> None:
    def line(method: str, fig6: str, moves: float) -> dict[str, Any]:
        return {"method": method, "fig6": fig6, "moves": moves}

    lines = [line("a", "no", 0.02), line("b", "yes", 0.3), line("c", "yes", 0.4)]
    lines += [line("d", "early", 0.1), line("beta-1", "", float("nan")), line("e", "no", 0.001)]
    assert [e["method"] for e in telling(lines)] == ["b", "d", "a", "e", "c", "beta-1"]
    assert len(telling([line(str(i), "no", 0.1 * i) for i in range(20)])) == TELLING
    assert telling([line("beta-1", "", float("nan"))])[0]["method"] == "beta-1"

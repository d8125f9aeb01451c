"""Tables, figure, store and runs from groups made by hand. Nothing is measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from hpo.bench.cost.bench import Case, Setting
from hpo.bench.cost.figure import cost_figure
from hpo.bench.cost.presets import FIT
from hpo.bench.cost.records import Group, GroupStore, Measurement, group_id
from hpo.bench.cost.report import COLUMNS, build_table, to_markdown, write_report
from hpo.bench.cost.tracked import records
from hpo.cells.store import StoreError

CASE = Case("cnn", 28, 1, 100, 50)
SETTING = Setting(repeats=3, threads=2)
ROWS = (
    Measurement("vanilla", "vanilla", seconds=(1.0, 2.0, 4.0), flops=300.0, peak_bytes=2**20),
    Measurement(
        "auto", "engine", seconds=(5.0, 8.0, 16.0), flops=1200.0, peak_bytes=3 * 2**20,
        relative_error=2e-7, cosine=1.0,
    ),
    Measurement("amortised_4", "option", every=4, seconds=(1.5, 3.0, 6.0)),
    Measurement("betty", "peer", error="not installed: pip install betty-ml"),
    Measurement("compiled", "engine", seconds=(9.0, 9.0, 9.0), remark="falls back. To eager"),
)  # fmt: skip


def group(case: Case = CASE, setting: Setting = SETTING, rows: tuple[Measurement, ...] = ROWS):
    return Group(case, setting, 1234567, {"cpu": "a processor", "torch": "2"}, rows)


def growth() -> list[Group]:
    small = [replace(CASE, batch_size=n, meta_batch_size=n, part="batch") for n in (16, 32)]
    lost = (ROWS[0], replace(ROWS[1], seconds=(), error="out of memory"))
    depth = replace(CASE, model="preact_resnet34", part="depth")
    return [group(small[0], rows=ROWS[:2]), group(small[1], rows=lost), group(depth, rows=ROWS[:2])]


def line(frame: pd.DataFrame, contender: str) -> pd.Series:
    (row,) = [row for _, row in frame.iterrows() if row["contender"] == contender]
    return row


def test_ratios_are_to_plain_mixup_of_the_same_group() -> None:
    frame = build_table([group()])
    assert tuple(frame.columns) == COLUMNS
    auto = line(frame, "auto")
    # Medians 8 and 2; by round 5, 4, 4.
    assert (auto.time_ratio, auto.time_ratio_low, auto.time_ratio_high) == (4.0, 4.0, 4.5)
    assert (auto.flops_ratio, auto.peak_mib, auto.seconds) == (4.0, 3.0, 8.0)
    assert auto.steps_per_second == 0.125
    # Thirteen passes with m = n, here 3·50/100 for the validation: 11.5 of 3.
    assert auto.share_of_floor == pytest.approx(11.5 / 3 / 4)
    assert line(frame, "vanilla").time_ratio == 1
    lost = (replace(ROWS[0], seconds=(), error="out of memory"), ROWS[1])
    assert pd.isna(line(build_table([group(rows=lost)]), "auto").time_ratio)
    option = line(frame, "amortised_4")
    assert option.time_ratio == 1.5
    assert pd.isna(option[["flops_ratio", "share_of_floor", "peak_mib", "cosine"]]).all()
    betty = line(frame, "betty")
    assert betty.error == "not installed: pip install betty-ml"
    assert pd.isna(betty[["time_ratio", "seconds", "peak_mib"]]).all()


def test_a_whole_epoch_has_its_steps() -> None:
    rows = (Measurement("loop", "loop", seconds=(2.0, 2.0)),)
    frame = build_table([group(replace(CASE, part=FIT), rows=rows)])
    assert line(frame, "loop").steps_per_second == 8 / 2.0


def test_the_markdown_says_what_a_reader_needs() -> None:
    other = group(setting=replace(SETTING, device="cuda", autocast="bf16", channels_last=True))
    variants = to_markdown(build_table([group(), other]))
    assert "m = 50, cuda-bf16-channels_last" in variants
    assert variants.count("| vanilla") == 2
    text = to_markdown(build_table([group(), *growth()]))
    assert "## cnn 28×28×1, n = 100, m = 50" in text
    rows = {r.split("|")[1].strip(): r for r in text.split("## Growth")[0].splitlines() if "|" in r}
    for part in ("4.00×", "4.00–4.50", "96%", "0.125", "3 MiB", "2e-07", "1.0000"):
        assert part in rows["auto"]
    assert rows["betty"].count("–") == 8
    assert "- betty: not installed: pip install betty-ml.\n" in text
    assert "- compiled: falls back. To eager." in text
    assert "1.00× is 2 s a step; 1,234,567 parameters." in text
    curve = text.split("## Growth with batch size: cnn")[1]
    assert "n = 16" in curve
    assert "4.00×, 3 MiB" in curve
    assert "out of memory" in curve
    assert "preact_resnet34" in text.split("## Growth with depth")[1]
    assert "nan" not in text.lower()


def test_the_figure_has_a_panel_for_times_and_memory_of_everything_measured() -> None:
    figure = cost_figure(build_table([group(), *growth()]))
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles[0] == "cnn 28×28×1, n = 100, m = 50"
    assert titles[2:] == ["cnn", "cnn", "depth", "depth"]
    bars = [patch.get_width() for patch in figure.axes[0].patches]
    assert bars == [1.0, 4.0, 1.5, 4.5]
    marks = figure.axes[0].lines[-1].get_xdata()
    assert list(marks)[:2] == [1.0, 4.0]
    auto = figure.axes[2].lines[1]
    assert list(auto.get_ydata()) == [4.0]  # the larger batch ran out of memory
    with pytest.raises(ValueError, match="nothing to draw"):
        cost_figure(build_table([group(rows=(ROWS[3], replace(ROWS[0], seconds=())))]))


def test_the_files_are_whole_and_the_csv_reads_back(tmp_path: Path) -> None:
    frame = build_table([group()])
    paths = write_report(tmp_path, frame, "Told before.")
    assert [p.name for p in paths] == ["cost.csv", "cost.md"]
    back = pd.read_csv(paths[0])
    assert list(back["contender"]) == [row.name for row in ROWS]
    assert back["time_ratio"][1] == 4.0
    assert paths[1].read_text().startswith("# cost\n\nTold before.\n\n## cnn")


def test_a_stored_group_comes_back_the_same_and_another_setting_is_another_group(
    tmp_path: Path,
) -> None:
    store = GroupStore(tmp_path)
    names = [row.name for row in ROWS]
    identity = group_id(CASE, SETTING, names, {"betty": None})
    assert store.load(identity) is None
    store.save(identity, group())
    assert store.load(identity) == group()
    data = json.loads((tmp_path / "groups" / f"{identity}.json").read_text())
    assert (data["machine"]["cpu"], data["case"]["batch_size"]) == ("a processor", 100)
    others = [
        group_id(replace(CASE, meta_batch_size=51), SETTING, names, {"betty": None}),
        group_id(CASE, replace(SETTING, threads=1), names, {"betty": None}),
        group_id(CASE, SETTING, names[:-1], {"betty": None}),
        group_id(CASE, SETTING, names, {"betty": "0.1.1"}),
    ]
    assert len({identity, *others}) == 5
    (tmp_path / "groups" / f"{identity}.json").write_text("{")
    with pytest.raises(StoreError, match="delete it to measure it again"):
        store.load(identity)
    store.set_aside()
    assert store.load(identity) is None
    assert len(list(tmp_path.glob("groups.before-*/*.json"))) == 1


def test_each_row_becomes_a_run_of_its_own_with_numbers_only() -> None:
    twice = [group(), group(setting=replace(SETTING, device="cuda")), *growth()]
    runs = [record for g in twice for record in records(g)]
    assert len({record.cell.id for record in runs}) == len(runs) == 5 + 5 + 6
    vanilla, auto, _, betty, _ = runs[:5]
    assert auto.status == "finished"
    numbers = auto.result.to_dict()
    assert (numbers["time_ratio"], numbers["parameters"]) == (4.0, 1234567)
    assert all(isinstance(value, float) for value in numbers.values())
    assert "cosine" not in vanilla.result.to_dict()
    assert (betty.status, betty.error) == ("crashed", "not installed: pip install betty-ml")
    training = auto.cell.training
    assert (training.model, training.batch_size, training.meta_batch_size) == ("cnn", 100, 50)
    assert training.policy.kind == "learned"
    assert vanilla.cell.training.policy.kind == "beta"

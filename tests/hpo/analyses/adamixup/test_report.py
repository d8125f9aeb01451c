"""On hand-made records, whose numbers a reader can follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest

from core.policies import AdaMixUpConfig, NoMix
from hpo.analyses.adamixup.figure import region_figure
from hpo.analyses.adamixup.report import STATISTICS, adamixup_report
from hpo.cells.record import CellRecord
from hpo.report.history import EPOCH_COLUMNS, epochs_table
from hpo.report.outcome import Extra, Outcome
from hpo.study.rows import Row, StudyRow

WITH, WITHOUT = AdaMixUpConfig(), AdaMixUpConfig(discriminator=False)
HELD = AdaMixUpConfig(quantiles=(0.4, 0.6))
ROWS = [
    StudyRow(Row("none", "No MixUp", "", "none"), NoMix()),
    StudyRow(Row("without", "Without", "", "extra"), WITHOUT),
    StudyRow(Row("with", "With", "", "extra"), WITH),
    StudyRow(Row("held", "Held", "", "frozen"), HELD),
]


@pytest.fixture
def make(make_record: Callable[..., CellRecord]) -> Callable[..., CellRecord]:
    def make(method: str, seed: int, accuracy: float = 60.0, **options: str) -> CellRecord:
        """Three epochs whose region narrows by 0.1 an epoch, from [0.3 + seed / 100, 0.8]."""
        policy = {row.row.key: row.policy for row in ROWS}[method]
        record = make_record(
            method, seed, policy=policy, epochs=3, parameters=100, policy_parameters=120, **options
        )
        history = []
        for epoch, metrics in enumerate(record.result.history):
            region = {"region_low": 0.3 + seed / 100, "region_high": 0.8 - epoch / 10}
            region["region_spread"] = epoch / 100 + seed / 1000
            if method == "held":
                region = {}
            if method in ("with", "held"):
                region |= {"discriminator_loss": 0.6, "discriminator_accuracy": accuracy + epoch}
                region["discriminator_held_out"] = accuracy - 2 * epoch
            history.append({**metrics, **(region if method != "none" else {})})
        return replace(record, result=replace(record.result, history=history))

    return make


def test_the_first_and_the_last_epoch_over_seeds(
    make: Callable[..., CellRecord], outcome_of: Callable[..., Outcome]
) -> None:
    records = [make("with", seed, accuracy) for seed, accuracy in enumerate([60.0, 70.0, 80.0])]
    records += [make("without", 0), make("none", 0), make("with", 3, status="diverged")]
    records.append(make("held", 0))
    extra = adamixup_report(outcome_of(ROWS, records))
    csv, picture = extra.files
    frame = pd.read_csv(csv)
    assert tuple(frame.columns) == (*EPOCH_COLUMNS, *STATISTICS)
    assert list(frame["method"]) == ["without"] * 3 + ["with"] * 9 + ["held"] * 3
    assert list(frame["epoch"]) == [1, 2, 3] * 5
    for name in ("discriminator_accuracy", "discriminator_held_out", "region_low"):
        assert frame[name].isna().sum() == 3
    assert picture.stat().st_size > 10_000
    assert extra.metrics["with", "digits"] == pytest.approx(
        {
            "region_low": 0.31,
            "region_high": 0.6,
            "discriminator_loss": 0.6,
            "discriminator_accuracy": 72.0,
            "region_spread": 0.021,
            "discriminator_held_out": 66.0,
        }
    )
    lines = {line.split(" ")[1]: line for line in extra.markdown.splitlines() if line[:1] == "|"}
    # 62, 72, 82: s = 10, half width 4.3027 · 10 / √3.
    expected = [
        "[0.310, 0.800]", "[0.310, 0.600]", "0.021", "72.0 ± 24.8", "66.0 ± 24.8", "3",
        "120 (1.20×)",
    ]  # fmt: skip
    assert [cell.strip() for cell in lines["With"].split("|")[2:-1]] == expected
    expected = ["[0.300, 0.800]", "[0.300, 0.600]", "0.020", "–", "–", "1", "120 (1.20×)"]
    assert [cell.strip() for cell in lines["Without"].split("|")[2:-1]] == expected
    expected = ["–", "–", "–", "62.0", "56.0", "1", "120 (1.20×)"]
    assert [cell.strip() for cell in lines["Held"].split("|")[2:-1]] == expected
    assert "nan" not in extra.markdown


def test_each_data_set_has_panels_and_a_table_of_its_own(
    make: Callable[..., CellRecord], outcome_of: Callable[..., Outcome]
) -> None:
    records = [make("with", 0, dataset=name) for name in ("digits", "mnist")]
    records.append(make("without", 0, dataset="mnist"))
    extra = adamixup_report(outcome_of(ROWS, records))
    assert extra.markdown.index("### digits") < extra.markdown.index("### mnist")
    assert extra.markdown.count("| With ") == 2
    assert extra.markdown.count("| Without ") == 1
    assert set(extra.metrics) == {("with", "digits"), ("with", "mnist"), ("without", "mnist")}
    drawn = region_figure(epochs_table(records, STATISTICS), {"with": "With", "without": "Without"})
    region, accuracy = drawn.axes[2:]
    # Of each method the means and the seeds of both ends, then before training.
    assert [line.get_ydata()[-1] for line in region.lines[:4:2]] == pytest.approx([0.3, 0.6])
    assert len(region.lines) == 2 * 2 * 2 + 2
    assert all(ax.get_xlabel() == "epoch" for ax in drawn.axes)
    [legend] = drawn.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "With", "Without", "mean; right: held-out images", "right: training batches", "one seed",
        "before training; guessing",
    ]  # fmt: skip
    held_out, _, training = accuracy.lines[:3]
    assert list(held_out.get_ydata()) == [60.0, 58.0, 56.0]
    assert list(training.get_ydata()) == [60.0, 61.0, 62.0]
    assert (held_out.get_linestyle(), training.get_linestyle()) == ("-", "--")


def test_the_mean_over_seeds_is_drawn_before_them(make: Callable[..., CellRecord]) -> None:
    records = [make("held", seed, accuracy) for seed, accuracy in enumerate([60.0, 70.0])]
    drawn = region_figure(epochs_table(records, STATISTICS), {"held": "Held"})
    region, accuracy = drawn.axes
    assert len(region.lines) == 2  # before training
    drawn_values = [list(line.get_ydata()) for line in accuracy.lines[:3]]
    assert drawn_values == [[65.0, 63.0, 61.0], [60.0, 58.0, 56.0], [70.0, 68.0, 66.0]]


def test_other_studies_have_no_such_part(
    make: Callable[..., CellRecord], outcome_of: Callable[..., Outcome]
) -> None:
    outcome = outcome_of(ROWS, [make("none", 0)])
    assert adamixup_report(outcome) == Extra()
    assert not list(outcome.output.iterdir())

"""The table of a semi-supervised study against what is computed by hand."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from core.policies import Beta, Frozen, LearnedConfig, NoMix
from core.semi_supervised.config import SemiSupervisedConfig
from hpo.cells.record import CellRecord
from hpo.report.few_label_table import COLUMNS, semi_table, summary_metrics
from hpo.report.markdown import to_markdown
from hpo.report.table import build_table, summary_rows
from hpo.study.comparisons import Comparisons
from hpo.study.rows import Row

MakeRecord = Callable[..., CellRecord]

ROWS = [
    Row("sup", "Supervised", "", "none", {"digits": 20.0}),
    Row("good", "Good", "", "extra"),
    Row("mixup", "MixUp", "", "beta"),
    Row("meta", "Meta", "", "learned", counterpart="mixup"),
    Row("meta-placebo", "Placebo", "", "placebo", control_of="meta"),
    Row("absent", "Absent", "", "extra"),
]
ERRORS = {
    "sup": [20.0, 21.0, 23.0],
    "good": [18.0, 18.7, 20.5],
    "mixup": [20.5, 21.0, 23.5],
    "meta": [19.0, 21.5, 22.0],
    "meta-placebo": [19.0, 20.0, 22.5],
}
POLICIES = {
    "mixup": Beta(alpha=1.0),
    "meta": LearnedConfig(),
    "meta-placebo": LearnedConfig(permute=True),
}


@pytest.fixture
def records(make_record: MakeRecord) -> list[CellRecord]:
    semi = SemiSupervisedConfig("pseudo-label", 100)
    results = []
    for method, errors in ERRORS.items():
        for seed, error in enumerate(errors):
            record = make_record(method, seed, test_error=error, median_error=error + seed)
            policy = POLICIES.get(method, NoMix())
            training = replace(record.cell.training, semi=semi, policy=policy, meta_size=30)
            results.append(replace(record, cell=replace(record.cell, training=training)))
    return results


def table(
    records: list[CellRecord], reference: str | None = "sup", rows: list[Row] = ROWS
) -> pd.DataFrame:
    return semi_table(
        build_table(records, rows, ["digits"]), rows, records, Comparisons(reference=reference)
    )


def test_the_reference_is_what_the_others_are_compared_with(records: list[CellRecord]) -> None:
    frame = table(records).set_index("method")
    assert list(table(records).columns) == list(COLUMNS)
    p_values = {}
    for method in ("good", "mixup", "meta", "meta-placebo"):
        truth = stats.ttest_rel(ERRORS[method], ERRORS["sup"])
        line = frame.loc[method]
        differences = np.subtract(ERRORS[method], ERRORS["sup"])
        assert line["diff_vs_reference"] == pytest.approx(differences.mean())
        low, high = truth.confidence_interval()
        assert (line["diff_ci_low"], line["diff_ci_high"]) == pytest.approx((low, high))
        assert line["p_value"] == pytest.approx(truth.pvalue)
        assert line["reference"] == "sup"
        p_values[method] = truth.pvalue
    # Holm by hand, the control apart: the smallest of four times 4, the next times 3. One is that
    # of meta with its counterpart.
    family = [p_values[method] for method in ("good", "mixup", "meta")]
    ranked = sorted([*family, stats.ttest_rel(ERRORS["meta"], ERRORS["mixup"]).pvalue])
    steps = np.maximum.accumulate([min(1.0, (4 - i) * p) for i, p in enumerate(ranked)])
    expected = dict(zip(ranked, steps, strict=True))
    for method in ("good", "mixup", "meta"):
        assert frame.loc[method, "p_holm"] == pytest.approx(expected[p_values[method]])
    assert frame.loc["meta-placebo", "p_holm"] == frame.loc["meta-placebo", "p_value"]
    assert math.isnan(frame.loc["sup", "diff_vs_reference"])
    assert not frame["best_beta"].any()


def test_medians_and_labels_stand_beside(records: list[CellRecord]) -> None:
    frame = table(records).set_index("method")
    medians = [error + seed for seed, error in enumerate(ERRORS["good"])]
    assert frame.loc["good", "median_error"] == pytest.approx(np.mean(medians))
    half = stats.t.ppf(0.975, 2) * np.std(medians, ddof=1) / math.sqrt(3)
    ends = (np.mean(medians) - half, np.mean(medians) + half)
    assert tuple(frame.loc["good", ["median_ci_low", "median_ci_high"]]) == pytest.approx(ends)
    assert frame["labels"].to_dict() == pytest.approx(
        dict.fromkeys(ERRORS, 100) | {"absent": float("nan")}, nan_ok=True
    )
    with_meta = {"sup": 100, "good": 100, "mixup": 100, "meta": 130, "meta-placebo": 130}
    assert frame["labels_with_meta"].dropna().to_dict() == with_meta


def test_meta_validation_images_that_train_or_gave_lambda_are_counted(
    records: list[CellRecord],
) -> None:
    def counted(**changes: Any) -> float:
        changed = [
            replace(r, cell=replace(r.cell, training=replace(r.cell.training, **changes)))
            for r in records
            if r.cell.method == "good"
        ]
        return float(table(changed).set_index("method").loc["good", "labels_with_meta"])

    assert counted() == 100
    assert counted(meta_in_training=True) == 130
    assert counted(policy=Frozen(quantiles=(0.0, 1.0))) == 130


def test_meta_validation_images_that_chose_the_settings_are_counted(
    records: list[CellRecord],
) -> None:
    rows = [replace(row, search="lr") if row.key == "good" else row for row in ROWS]
    frame = table(records, rows=rows)
    assert frame.set_index("method").loc["good", ["labels", "labels_with_meta"]].tolist() == [
        100,
        130,
    ]
    text = to_markdown(frame)
    assert "to learn λ, to train, or to choose settings in a search." in text
    assert "the mean of one training, plus the whole search where one was needed" in text


def test_without_the_reference_nothing_is_compared(records: list[CellRecord]) -> None:
    for reference in (None, "absent"):
        frame = table(records, reference)
        assert frame["diff_vs_reference"].isna().all()
        assert (frame["reference"] == "").all()
        assert "Mean error below" not in to_markdown(frame)


def test_the_text_names_what_is_better_and_what_is_not(records: list[CellRecord]) -> None:
    text = to_markdown(table(records))
    [header] = [line for line in text.splitlines() if line.startswith("| method")]
    for name in ("median (%)", "labels", "+ meta", "− reference ‡"):
        assert name in header
    assert "best Beta" not in text
    assert "| Supervised ‡" in text
    assert re.search(r"\| Meta .*\| +100 \| +130 \|", text)
    assert "- Mean error below that of Supervised: Good, Meta.\n" in text
    assert "- Of these with p (Holm) < 0.05: Good.\n" in text
    assert "- Not better than Supervised: MixUp." in text


def test_what_the_table_has_besides_goes_to_the_summary_runs(records: list[CellRecord]) -> None:
    frame = table(records)
    [good] = [r for r in summary_rows(frame, summary_metrics(frame)) if r.method == "good"]
    assert good.further["labels"] == 100
    assert good.further["diff_vs_reference"] == pytest.approx(-6.8 / 3)
    assert good.further["median_error"] == pytest.approx(np.mean([18.0, 19.7, 22.5]))
    assert summary_metrics(build_table(records, ROWS, ["digits"])) == {}

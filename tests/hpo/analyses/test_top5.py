from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest

from core.policies import NoMix
from hpo.analyses.top5 import COLUMNS, top5_report
from hpo.cells.record import CellRecord
from hpo.report.outcome import Extra, Outcome
from hpo.study.rows import Row, StudyRow

MakeRecord = Callable[..., CellRecord]
NONE = NoMix()
ROWS = [
    StudyRow(Row("none", "No MixUp", "", "none", {"imagenet": 52.84}), NONE),
    StudyRow(Row("other", "Other", "", "extra"), NONE),
]
PAPER = {("none", "imagenet"): 29.48}


def test_both_errors_stand_beside_the_papers(
    make_record: MakeRecord, outcome_of: Callable[..., Outcome]
) -> None:
    records = [
        make_record("none", seed, dataset="imagenet", test_error=50.0 + seed, test_top5_error=top5)
        for seed, top5 in enumerate([20.0, 22.0, 24.0])
    ]
    records += [
        make_record("other", 0, dataset="imagenet", test_error=60.0, test_top5_error=31.0),
        make_record("other", 1, dataset="imagenet", status="diverged"),
        make_record("none", 7, dataset="imagenet", purpose="search", test_top5_error=99.0),
        make_record("none", 0, dataset="digits"),
    ]
    extra = top5_report(PAPER)(outcome_of(ROWS, records))
    [path] = extra.files
    assert path.name == "figure-top5.csv"
    frame = pd.read_csv(path)
    assert tuple(frame.columns) == COLUMNS
    assert list(frame["dataset"]) == ["imagenet", "imagenet"]
    none, other = frame.to_dict("records")
    assert (none["mean_error"], none["mean_top5_error"]) == (51.0, 22.0)
    assert (none["paper_error"], none["paper_top5_error"]) == (52.84, 29.48)
    # s = 2: half width 4.3027 · 2 / √3.
    assert none["top5_ci_high"] - 22.0 == pytest.approx(4.9684, abs=1e-3)
    assert (other["n_seeds"], other["mean_top5_error"]) == (1, 31.0)
    assert pd.isna(other["paper_top5_error"])
    assert "| No MixUp |" in extra.markdown
    assert "22.00 ± 4.97" in extra.markdown
    assert extra.metrics["none", "imagenet"] == {"mean_top5_error": 22.0}


def test_few_classes_have_no_top5(
    make_record: MakeRecord, outcome_of: Callable[..., Outcome]
) -> None:
    outcome = outcome_of(ROWS, [make_record("none")])
    assert top5_report(PAPER)(outcome) == Extra()
    assert not list(outcome.output.iterdir())

"""α over the training, from hand-made records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from hpo.analyses.figures.learned_alpha import STATISTICS, learned_alpha
from hpo.report.history import EPOCH_COLUMNS
from hpo.report.outcome import Outcome
from hpo.study.named_rows import MIXUP
from studies.rows import LEARNED_BETA


def learned(*alphas: float) -> dict[str, Any]:
    epochs = [{"epoch": e, "alpha": a, "alpha_signal": 0.5} for e, a in enumerate(alphas, 1)]
    del epochs[0]["alpha_signal"]  # nothing was learned yet
    return {"history": epochs}


@pytest.fixture
def outcome(make_outcome: Callable[..., Outcome]) -> Outcome:
    plain: dict[str, Any] = {"history": [{"epoch": 1}, {"epoch": 2}]}
    rows = {"beta-1": [plain, plain], "learned-beta": [learned(1.0, 0.5, 0.1), learned(1.0, 0.3)]}
    return make_outcome([MIXUP, LEARNED_BETA], rows, ["digits", "mnist"])


def test_every_epoch_of_what_learns_alpha_and_where_it_ended(outcome: Outcome) -> None:
    extra = learned_alpha(outcome)
    csv, picture = extra.files
    frame = pd.read_csv(csv)
    assert tuple(frame.columns) == (*EPOCH_COLUMNS, *STATISTICS)
    assert list(frame["alpha"]) == [1.0, 0.5, 0.1, 1.0, 0.3] * 2
    assert frame["alpha_signal"].isna().sum() == 4
    assert picture.stat().st_size > 10_000
    assert "α learned late" in extra.markdown
    assert "0.20 ± " in extra.markdown  # of 0.1 and 0.3


def test_nothing_is_said_of_a_study_that_learns_no_alpha(
    make_outcome: Callable[..., Outcome],
) -> None:
    extra = learned_alpha(
        make_outcome([MIXUP], {"beta-1": [{"history": [{"epoch": 1}]}]}, ["digits"])
    )
    assert (extra.markdown, extra.files) == ("", [])

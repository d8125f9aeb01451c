"""The search over constants against a choice written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from hpo.analyses.anytime.constants import COLUMNS, constants_tried, search_error
from hpo.report.outcome import Outcome
from hpo.study.named_rows import MIXUP, NONE, beta
from studies.rows import LEARNED_BETA
from tests.support.results import result


def given(val: float, test: float, loss: float = 1.0) -> dict[str, Any]:
    return {"val_error": val, "test_error": test, "history": [{"epoch": 1, "val_loss": loss}]}


def test_all_choices_of_so_many_constants() -> None:
    """Validation errors 3 1 1, the second 1 with the lower loss, and test errors 10 20 40: alone
    each is taken; of two 20, 40 and 40; of all 40."""
    trained = [result(**given(*v)) for v in ((3, 10), (1, 20, 0.9), (1, 40, 0.8))]
    assert search_error(trained, 1) == pytest.approx(70 / 3)
    assert search_error(trained, 2) == pytest.approx(100 / 3)
    assert search_error(trained, 3) == 40


def test_a_line_for_each_number_of_constants(make_outcome: Callable[..., Outcome]) -> None:
    """Seeds with the search at 10 and 14, then at 8 and 12; the learned row at 9 and 12."""
    trained = {
        "none": [given(5, 12), given(5, 16)],
        "beta-1": [given(4, 8), given(4, 12)],
        "learned-beta": [given(4, 9), given(4, 12)],
    }
    outcome = make_outcome([NONE, MIXUP, LEARNED_BETA, beta(0.2)], trained, ["digits"])
    extra = constants_tried(outcome)
    csv, picture = extra.files
    frame = pd.read_csv(csv)
    assert tuple(frame.columns) == COLUMNS
    assert list(frame["trainings"]) == [1, 2]
    assert list(frame["search_error"]) == [12.0, 10.0]
    assert list(frame["difference"]) == [-1.5, 0.5]
    assert frame["diff_ci_high"][1] == pytest.approx(0.5 + 12.7062 * 0.5, abs=1e-3)
    assert picture.stat().st_size > 5_000
    assert "| digits" in extra.markdown


def test_a_constant_that_diverges_costs_the_others_no_seed(
    make_outcome: Callable[..., Outcome],
) -> None:
    """Its one seed would be all that is compared; of two constants it is tried nevertheless."""
    diverges = beta(8.0)
    trained = {
        "none": [given(5, 12), given(5, 16)],
        "beta-1": [given(4, 8), given(4, 12)],
        "beta-8": [given(1, 1)],
        "learned-beta": [given(4, 9), given(4, 12)],
    }
    extra = constants_tried(make_outcome([NONE, MIXUP, diverges, LEARNED_BETA], trained))
    frame = pd.read_csv(extra.files[0])
    assert list(frame["n_seeds"]) == [2, 2]
    assert list(frame["search_error"]) == [12.0, 10.0]
    assert (
        "- Left out on digits, as they lack seeds that other constants have: MixUp (α = 8)."
        in extra.markdown
    )
    header, _, *lines = [line for line in extra.markdown.splitlines() if line.startswith("|")]
    place = [cell.strip() for cell in header.split("|")].index("n")
    assert [line.split("|")[place].strip() for line in lines] == ["2", "2"]
    extra = constants_tried(make_outcome([NONE, diverges, LEARNED_BETA], trained))
    assert list(pd.read_csv(extra.files[0])["n_seeds"]) == [1, 1]
    assert "Left out" not in extra.markdown


def test_nothing_is_said_without_a_search(make_outcome: Callable[..., Outcome]) -> None:
    one = {"beta-1": [given(4, 8)], "learned-beta": [given(4, 9)]}
    extra = constants_tried(make_outcome([MIXUP, LEARNED_BETA], one, ["digits"]))
    assert (extra.markdown, extra.files) == ("", [])

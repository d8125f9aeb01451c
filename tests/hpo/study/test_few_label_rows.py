from __future__ import annotations

from dataclasses import replace

import pytest

from core.data import Source, load_source
from core.policies import LearnedConfig, NoMix
from hpo.study import few_label_presets
from hpo.study.few_label_rows import with_presets
from hpo.study.plan import SourceKey, source_key
from hpo.study.recipes import SEARCHED_ALPHA
from hpo.study.rows import Row, SemiRow, StudyRow, controls
from hpo.study.variants import with_meta_images

PAPER = {("digits", 50): 9.0, ("digits", 100): 8.0, ("cifar10", 50): 7.0}
SUPERVISED = StudyRow(
    Row("sup", "Sup", "", "none"),
    NoMix(),
    semi=SemiRow("supervised-only", paper_errors=PAPER),
)
LEARNED = StudyRow(
    Row("meta", "Meta", "", "learned"),
    LearnedConfig(),
    semi=SemiRow("apl", {"threshold_step": 0.2}, PAPER),
)
BASE = {"digits": few_label_presets.training("digits", "quick")}


@pytest.fixture(scope="module")
def sources() -> dict[SourceKey, Source]:
    return {source_key(BASE["digits"]): load_source("digits")}


def test_a_row_gets_its_methods_settings_and_its_own_go_first(
    sources: dict[SourceKey, Source],
) -> None:
    plain, learned = with_presets([SUPERVISED, LEARNED], BASE, sources, "quick", {})
    assert plain.settings("digits")["semi"] == BASE["digits"].semi
    semi = learned.settings("digits")["semi"]
    assert (semi.kind, semi.labelled, semi.threshold_step) == ("pseudo-label", 50, 0.2)
    assert semi.threshold_period == round(0.15 * BASE["digits"].epochs)


def test_what_the_command_line_gave_goes_before_a_methods_rate(
    sources: dict[SourceKey, Source],
) -> None:
    [ours] = with_presets([SUPERVISED], BASE, sources, "oliver", {})
    [theirs] = with_presets([SUPERVISED], BASE, sources, "oliver", {"lr": 0.1})
    assert ours.settings("digits")["lr"] == 3e-3
    assert "lr" not in theirs.settings("digits")


def test_the_papers_number_is_of_the_same_data_set_labels_and_images(
    sources: dict[SourceKey, Source],
) -> None:
    tuned = replace(SUPERVISED, row=replace(SUPERVISED.row, key="tuned"), recipe=SEARCHED_ALPHA)
    rows = [LEARNED, *controls(LEARNED), SUPERVISED, with_meta_images(SUPERVISED), tuned]
    actual = with_presets(rows, BASE, sources, "quick", {})
    shown = {row.row.key: row.row.paper_error for row in actual}
    assert shown == {
        "meta": {"digits": 9.0},
        "meta-placebo": {},
        "meta-frozen": {},
        "sup": {"digits": 9.0},
        "sup+meta": {},
        "tuned": {},
    }


def test_rows_of_other_studies_stay_as_they_are(sources: dict[SourceKey, Source]) -> None:
    row = StudyRow(Row("none", "None", "", "none"), NoMix(), {"meta_size": 7})
    assert with_presets([row], BASE, sources, "quick", {}) == [row]

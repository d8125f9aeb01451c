from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from hpo.cells.record import CellRecord
from hpo.report.markdown import (
    difference,
    error,
    number,
    padded_table,
    probability,
    to_markdown,
)
from hpo.report.page import to_html
from hpo.report.table import build_table
from hpo.study.rows import Row

NAN = math.nan
NONE = Row("none", "No MixUp", "", "none")


def test_columns_are_padded_the_first_to_the_left() -> None:
    assert padded_table(["name", "x"], [["a", "1.25"], ["longer", "–"]]) == "\n".join(
        [
            "| name   |    x |",
            "| ------ | ---: |",
            "| a      | 1.25 |",
            "| longer |    – |",
        ]
    )


def test_a_bar_or_a_line_break_in_a_name_moves_no_number(tmp_path: Path) -> None:
    table = padded_table(["name", "x"], [["a|b", "1.25"], ["b\nc", "2"]])
    html = to_html(table, tmp_path)
    assert re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", html) == [
        "name",
        "x",
        "a|b",
        "1.25",
        "b c",
        "2",
    ]


@pytest.mark.parametrize(
    ("samples", "expected"), [(999.4, "999"), (999.6, "1k"), (999_600, "1M"), (123_456, "123k")]
)
def test_samples_go_on_in_the_next_unit(
    make_record: Callable[..., CellRecord], samples: float, expected: str
) -> None:
    frame = build_table([make_record("none", samples_seen=samples)], [NONE], ["digits"])
    assert f"| {expected} |" in re.sub(" +", " ", to_markdown(frame))


def test_seconds_have_no_exponent(make_record: Callable[..., CellRecord]) -> None:
    frame = build_table([make_record("none", train_seconds=1234.4)], [NONE], ["digits"])
    assert "- 1.00× is 1234 s of training." in to_markdown(frame)


def test_a_table_without_lines_has_its_header() -> None:
    assert padded_table(["n"], []) == "| n   |\n| --- |"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (difference(-0.204, -0.51, 0.11), "−0.20 [−0.51, +0.11]"),
        (difference(0.204, NAN, NAN), "+0.20"),
        (difference(NAN, NAN, NAN), "–"),
        (probability(0.00099), "<0.001"),
        (probability(0.0384), "0.038"),
        (probability(NAN), "–"),
        (number(3.14159, "{:.2f}×"), "3.14×"),
        (number(NAN, "{:.2f}", missing=""), ""),
        (error({"mean_error": 7.2, "ci_high": 7.61}), "7.20 ± 0.41"),
        (error({"mean_error": 7.2, "ci_high": NAN}), "7.20"),
        (error({"mean_error": NAN, "ci_high": NAN}), "–"),
    ],
)
def test_numbers_for_people(text: str, expected: str) -> None:
    assert text == expected

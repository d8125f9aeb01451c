from __future__ import annotations

import math

import pytest

from hpo.report.markdown import difference, error, number, padded_table, probability

NAN = math.nan


def test_columns_are_padded_the_first_to_the_left() -> None:
    assert padded_table(["name", "x"], [["a", "1.25"], ["longer", "–"]]) == "\n".join(
        [
            "| name   |    x |",
            "| ------ | ---: |",
            "| a      | 1.25 |",
            "| longer |    – |",
        ]
    )


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

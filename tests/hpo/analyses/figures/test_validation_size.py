from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from hpo.analyses.figures.validation_size import Curve, size_figure, size_table, validation_size
from hpo.report.outcome import Outcome
from hpo.study.named_rows import METAMIXUP, MIXUP

SMALL, LARGE = (
    replace(METAMIXUP, row=replace(METAMIXUP.row, key=f"m-{size}"), training={"meta_size": size})
    for size in (3, 30)
)
CURVES = [Curve("m", "MetaMixUp", {3: "m-3", 30: "m-30", 300: "m-300"})]


def errors(*values: float) -> list[dict[str, float]]:
    return [{"test_error": value} for value in values]


@pytest.fixture
def outcome(make_outcome: Callable[..., Outcome]) -> Outcome:
    return make_outcome(
        [MIXUP, SMALL, LARGE],
        {"beta-1": errors(9, 11), "m-3": errors(8, 10, 9), "m-30": errors(7, 8, 9)},
    )


def test_one_line_a_size_and_the_reference(outcome: Outcome) -> None:
    lines = size_table(outcome, CURVES).to_dict("records")
    stated = [(e["method"], e["meta_size"], e["per_class"], e["mean"], e["n_seeds"]) for e in lines]
    # Three classes; the base training has 60 images; no row has 300.
    assert stated == [("m", 3, 1, 9, 3), ("m", 30, 10, 8, 3), ("beta-1", 60, 20, 10, 2)]


def test_the_figure(outcome: Outcome) -> None:
    (ax,) = size_figure(size_table(outcome, CURVES)).axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["3\n(1)", "30\n(10)"]
    actual = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    assert set(actual) == {"MixUp (α = 1)", "MetaMixUp"}
    assert list(actual["MixUp (α = 1)"].get_ydata()) == [10, 10]
    curve = actual["MetaMixUp"].lines[0]
    assert list(curve.get_ydata()) == [9, 8]
    assert list(curve.get_xdata()) == pytest.approx([3, 30], rel=0.1)


def test_the_text_compares_each_size_with_the_largest(outcome: Outcome) -> None:
    """Paired: 1, 2 and 0; mean 1, half 4.303 · 1 / √3 = 2.48."""
    text = validation_size(outcome, CURVES).markdown
    assert "- MetaMixUp, 3 − 30 images: +1.00 [−1.48, +3.48], p (Holm) = 0.225, n = 3." in text
    assert "− MixUp" not in text  # it learns from 60 images, and no row does
    assert "MixUp (α = 1): 10.00 ± 12.71" in text


def test_rows_with_the_references_images_are_held_against_it(
    make_outcome: Callable[..., Outcome],
) -> None:
    """7 − 9 and 8 − 11: −2.5, half 12.71 · 0.5, p = 0.126 (t = 5, one degree of freedom), the
    smaller of two."""
    curves = [Curve("m", "MetaMixUp", {3: "m-3", 60: "m-60"})]
    same = replace(LARGE, row=replace(LARGE.row, key="m-60"), training={"meta_size": 60})
    outcome = make_outcome(
        [MIXUP, SMALL, same],
        {"beta-1": errors(9, 11), "m-3": errors(8, 10), "m-60": errors(7, 8)},
    )
    text = validation_size(outcome, curves).markdown
    assert (
        "- MetaMixUp, 60 images − MixUp, on the same training images: −2.50 [−8.85, +3.85], "
        "p (Holm) = 0.251" in text
    )


def test_sizes_without_result_are_left_out(make_outcome: Callable[..., Outcome]) -> None:
    outcome = make_outcome([SMALL, LARGE], {"m-3": errors(8)})
    size_figure(size_table(outcome, CURVES))
    assert "| MetaMixUp | 8.00 |   – |" in validation_size(outcome, CURVES).markdown


def test_a_curve_has_one_color_where_another_is_missing_on_a_data_set(
    make_outcome: Callable[..., Outcome],
) -> None:
    curves = [Curve("a", "First", {3: "m-3"}), Curve("m", "Second", {30: "m-30"})]
    rows = {"m-3": errors(8, 9), "m-30": errors(7, 8)}
    frame = size_table(make_outcome([SMALL, LARGE], rows, ["digits", "mnist"]), curves)
    frame.loc[(frame["dataset"] == "digits") & (frame["label"] == "First"), "n_seeds"] = 0
    figure = size_figure(frame)
    colors = [
        {label: bars.lines[0].get_color() for bars, label in zip(*found, strict=True)}
        for found in (ax.get_legend_handles_labels() for ax in figure.axes)
    ]
    assert set(colors[0]) == {"Second"}
    assert set(colors[1]) == {"First", "Second"}
    assert colors[0]["Second"] == colors[1]["Second"] != colors[1]["First"]
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"First", "Second"}

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Annotation, Text

from core.policies import Beta, Fixed, LearnedConfig, MetaWeightNetConfig, NoMix
from hpo.cells.record import CellRecord
from hpo.report.study_figure import study_figure
from hpo.report.style import save_figure
from hpo.report.table import build_table
from hpo.study.rows import Row

MakeRecord = Callable[..., CellRecord]
ROWS = [
    Row("none", "No MixUp", "", "none", {"digits": 6.5, "mnist": 0.3}),
    Row("beta-1", "MixUp (α = 1)", "alpha=1", "beta"),
    Row("fixed-0.3", "Fixed λ = 0.3", "lam=0.3", "fixed"),
    Row("metamixup", "MetaMixUp", "reading=default", "learned"),
    Row("placebo", "Placebo", "reading=default", "placebo"),
]


@pytest.fixture
def records(make_record: MakeRecord) -> list[CellRecord]:
    """Three seeds on two data sets; the placebo has no result, fixed-0.3 a single seed."""
    policies = {
        "none": NoMix(),
        "beta-1": Beta(alpha=1.0),
        "fixed-0.3": Fixed(lam=0.3),
        "metamixup": LearnedConfig(),
    }
    results = []
    for dataset, level in (("digits", 6.0), ("mnist", 60.0)):
        for index, (method, policy) in enumerate(policies.items()):
            for seed in range(1 if method == "fixed-0.3" else 3):
                results.append(
                    make_record(
                        method,
                        seed,
                        dataset=dataset,
                        policy=policy,
                        test_error=level + 0.5 * index + 0.2 * seed,
                        train_seconds=10.0 * (4 if method == "metamixup" else 1) + index,
                        history=[
                            {
                                "epoch": epoch,
                                "lam_q25": 0.4 - 0.1 * (method == "metamixup") * epoch,
                                "lam_q75": 0.6 + 0.01 * seed,
                            }
                            for epoch in (1, 2, 3)
                        ],
                    )
                )
    return results


@pytest.fixture
def frame(records: list[CellRecord]) -> pd.DataFrame:
    return build_table(records, ROWS, ["digits", "mnist"])


def parts_of(figure: Figure) -> list[Any]:
    """Returns the errors, the cost and, where some λ moves, λ over training."""
    return list(figure.subfigs)


def axes_of(figure: Any) -> list[Any]:
    return [ax for ax in figure.axes if ax.axison]


def texts(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]


def test_errors_are_drawn_where_the_table_says(
    frame: pd.DataFrame, records: list[CellRecord]
) -> None:
    digits, mnist = parts_of(study_figure(frame, records))[0].axes
    assert [label.get_text() for label in digits.get_yticklabels()] == [row.label for row in ROWS]
    assert (digits.get_title(), mnist.get_title()) == ("digits", "mnist")
    assert digits.get_xlabel() == "test error (%)"
    assert digits.get_ylim() == (4.5, -0.5)  # the first row is on top
    # The mean and interval of "none": 6.0, 6.2, 6.4.
    [bar] = [c for c in digits.containers if c.lines[0].get_ydata()[0] == 0]
    [interval] = bar.lines[2][0].get_segments()
    half = 4.302653 * 0.2 / 3**0.5
    np.testing.assert_allclose(float(bar.lines[0].get_xdata()[0]), 6.2)
    np.testing.assert_allclose(interval[:, 0], [6.2 - half, 6.2 + half], rtol=1e-6)


def test_rows_that_another_one_needs_can_be_left_out(
    frame: pd.DataFrame, records: list[CellRecord]
) -> None:
    drawn = parts_of(study_figure(frame, records, left_out={ROWS[1].key}))[0].axes[0]
    expected = [row.label for row in ROWS if row.key != ROWS[1].key]
    assert [label.get_text() for label in drawn.get_yticklabels()] == expected


def test_what_a_panel_cannot_show_is_said_beside_it(
    frame: pd.DataFrame, records: list[CellRecord]
) -> None:
    digits, mnist = parts_of(study_figure(frame, records))[0].axes
    notes = [[text.get_text() for text in ax.texts] for ax in (digits, mnist)]
    # digits: the paper's 6.5 is in range and a hollow star; mnist: 0.3 is not.
    assert notes == [
        ["", "", "n = 1", "", "no result"],
        ["paper: 0.30", "", "n = 1", "", "no result"],
    ]
    stars = [line for line in digits.lines if line.get_marker() == "*"]
    assert [line.get_xdata()[0] for line in stars] == [6.5]
    assert stars[0].get_markerfacecolor() == "none"


def test_the_legend_names_what_is_drawn(frame: pd.DataFrame, records: list[CellRecord]) -> None:
    [legend] = parts_of(study_figure(frame, records))[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "mean and 95 % interval",
        "one seed",
        "best Beta by validation",
        "the paper's number",
    ]
    plain = build_table(records, [ROWS[2]], ["digits"])
    [legend] = parts_of(study_figure(plain, []))[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["mean"]  # of one seed


@pytest.mark.parametrize(
    ("cost", "column", "title"),
    [
        ("seconds", "train_seconds", "training time (s), search included"),
        ("samples", "samples_seen", "samples sent forward, search included"),
    ],
)
def test_cost_is_logarithmic_and_every_point_is_named(
    cost: str, column: str, title: str, frame: pd.DataFrame
) -> None:
    figure = study_figure(frame, [], cost)
    for ax in parts_of(figure)[1].axes:
        assert ax.get_xscale() == "log"
        assert ax.get_xlabel() == title
        here = frame[(frame["dataset"] == ax.get_title()) & (frame["n_seeds"] > 0)]
        assert sorted(line.get_xdata()[0] for line in ax.lines) == sorted(here[column])
        assert ax.get_ylabel() == "test error (%)"
        names = [text for text in ax.texts if isinstance(text, Annotation)]
        assert {name.get_text() for name in names} == {row.label for row in ROWS[:4]}
        figure.draw_without_rendering()
        boxes = [super(Annotation, name).get_window_extent() for name in names]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        panel = ax.get_window_extent()
        assert all(panel.contains(*corner) for box in boxes for corner in box.corners())


def test_lambda_is_drawn_over_training_where_it_moves(
    frame: pd.DataFrame, records: list[CellRecord]
) -> None:
    """Not of rows whose λ is one number; quartiles are means over the seeds."""
    digits, mnist = parts_of(study_figure(frame, records))[2].axes
    assert (digits.get_title(), mnist.get_title()) == ("digits", "mnist")
    assert (digits.get_xlabel(), digits.get_ylabel()) == ("epoch", "λ, quartiles")
    drawn = {}
    for line in digits.lines:
        drawn.setdefault(line.get_label(), []).append(line)
    assert set(drawn) == {"MixUp (α = 1)", "MetaMixUp"}
    low, high = drawn["MetaMixUp"]
    np.testing.assert_array_equal(low.get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(low.get_ydata(), [0.3, 0.2, 0.1])
    np.testing.assert_allclose(high.get_ydata(), [0.61] * 3)
    assert low.get_linestyle() != drawn["MixUp (α = 1)"][0].get_linestyle()
    [legend] = parts_of(study_figure(frame, records))[2].legends
    assert {text.get_text() for text in legend.get_texts()} == set(drawn)


def test_beside_them_is_the_best_beta_among_the_most_complete(make_record: MakeRecord) -> None:
    """One that lost seeds has the mean of others, perhaps kinder ones."""
    two = Row("beta-2", "MixUp (α = 2)", "alpha=2", "beta")
    history = [{"epoch": 1.0, "lam_q25": 0.4, "lam_q75": 0.6}]
    seeds = [("metamixup", LearnedConfig(), 2, 9.0), ("beta-1", Beta(1.0), 2, 9.0),
             ("beta-2", Beta(2.0), 1, 3.0)]  # fmt: skip
    records = [
        make_record(method, seed, policy=policy, history=history, val_error=error)
        for method, policy, n, error in seeds
        for seed in range(n)
    ]
    frame = build_table(records, [*ROWS[1:4], two], ["digits"])
    [panel] = parts_of(study_figure(frame, records))[2].axes
    assert {line.get_label() for line in panel.lines} == {"MetaMixUp", "MixUp (α = 1)"}


def test_without_quartiles_nothing_is_drawn_of_lambda(make_record: MakeRecord) -> None:
    record = make_record("metamixup", policy=LearnedConfig(), history=[])
    assert len(parts_of(study_figure(build_table([record], ROWS, ["digits"]), [record]))) == 2


def test_a_row_that_weights_samples_has_no_lambda(make_record: MakeRecord) -> None:
    """It records λ = 1 throughout, as it mixes nothing."""
    history = [{"epoch": 1.0, "lam_q25": 1.0, "lam_q75": 1.0}]
    both = [
        make_record("metamixup", policy=LearnedConfig(), history=history),
        make_record("placebo", policy=MetaWeightNetConfig(), history=history),
    ]
    [panel] = parts_of(study_figure(build_table(both, ROWS, ["digits"]), both))[2].axes
    assert {line.get_label() for line in panel.lines} == {"MetaMixUp"}


@pytest.mark.parametrize("swapped", [False, True])
def test_the_best_row_is_on_top_in_every_panel(swapped: bool, make_record: MakeRecord) -> None:
    """One order for both data sets: 1st and 3rd, 2nd and 1st, 3rd and 2nd place."""
    errors = {"none": (1.0, 9.0), "beta-1": (2.0, 7.0), "fixed-0.3": (3.0, 8.0)}
    records = [
        make_record(method, dataset=dataset, test_error=error)
        for method, pair in errors.items()
        for dataset, error in zip(("digits", "mnist"), pair, strict=True)
    ]
    rows = [row for row in ROWS if row.key in errors]
    frame = build_table(records, rows[::-1] if swapped else rows, ["digits", "mnist"])
    digits, mnist = parts_of(study_figure(frame, records))[0].axes
    labels = [label.get_text() for label in digits.get_yticklabels()]
    assert labels == ["MixUp (α = 1)", "No MixUp", "Fixed λ = 0.3"]
    for ax, order in ((digits, [2.0, 1.0, 3.0]), (mnist, [7.0, 9.0, 8.0])):
        bars = {bar.lines[0].get_ydata()[0]: bar.lines[0].get_xdata()[0] for bar in ax.containers}
        assert [float(bars[place]) for place in range(3)] == order


def test_the_study_figure_has_all_three_parts(
    frame: pd.DataFrame, records: list[CellRecord], tmp_path: Path
) -> None:
    figure = study_figure(frame, records)
    said = texts(figure)
    for expected in ("test error (%)", "training time (s), search included", "epoch", "MetaMixUp"):
        assert expected in said
    path = save_figure(figure, tmp_path / "new" / "table2.png", dpi=60)
    image = imread(path)
    height, width = image.shape[:2]
    assert (width, height) == tuple(round(60 * inches) for inches in figure.get_size_inches())
    assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 50
    # Nothing touches the edges, so nothing is cut off.
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        np.testing.assert_array_equal(edge, 1.0)
    assert [entry.name for entry in path.parent.iterdir()] == ["table2.png"]


def test_a_study_without_results_still_has_a_figure(tmp_path: Path) -> None:
    frame = build_table([], ROWS, ["digits"])
    figure = study_figure(frame, [])
    assert sum(text.startswith("no result") for text in texts(figure)) == len(ROWS)
    assert save_figure(figure, tmp_path / "empty.png", dpi=40).stat().st_size > 1000


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        study_figure(build_table([], [], ["digits"]), [])


def test_long_names_are_shortened(make_record: MakeRecord) -> None:
    dataset = "folder:/data/" + "x" * 60
    frame = build_table([make_record(dataset=dataset)], [ROWS[1]], [dataset])
    [ax] = parts_of(study_figure(frame, []))[0].axes
    assert ax.get_title() == "…" + "x" * 39


def test_dollar_signs_in_the_name_of_a_data_set(
    frame: pd.DataFrame, records: list[CellRecord], tmp_path: Path
) -> None:
    """Points are named by where they are drawn, so the figure is laid out before it is saved."""
    named = frame.assign(dataset=frame["dataset"].replace("digits", "folder:/cost_$5_to_$6"))
    named["label"] += " $5_to_$6"
    figure = study_figure(named, records)
    assert save_figure(figure, tmp_path / "figure.png").stat().st_size > 0


def test_lambda_of_a_row_looks_as_the_legend_says_in_every_panel(make_record: MakeRecord) -> None:
    """The best Beta, drawn beside the others, is another on each data set; and of the six learned
    rows, two more than there are dashes, no two look the same."""
    learned = [Row(f"learned-{i}", f"Learned {i}", "", "learned") for i in range(6)]
    betas = [Row(f"beta-{a}", f"MixUp (α = {a})", "", "beta") for a in (1, 2)]
    history = [{"epoch": float(e), "lam_q25": 0.4, "lam_q75": 0.6} for e in (1, 2)]
    best = {("beta-1", "digits"), ("beta-2", "mnist")}
    records = [
        make_record(
            row.key,
            dataset=dataset,
            policy=Beta(1.0) if row.family == "beta" else LearnedConfig(),
            history=history,
            val_error=1.0 if (row.key, dataset) in best else 5.0,
        )
        for dataset in ("digits", "mnist")
        for row in (*betas, *learned)
    ]
    frame = build_table(records, [*betas, *learned], ["digits", "mnist"])
    part = parts_of(study_figure(frame, records))[2]

    def look(line: Any) -> tuple[Any, ...]:
        return line.get_color(), line.get_linestyle(), line.get_marker()

    [legend] = part.legends
    named = dict(zip((t.get_text() for t in legend.get_texts()), legend.get_lines(), strict=True))
    assert set(named) == {row.label for row in (*betas, *learned)}
    assert len({look(line) for line in named.values()}) == len(named)
    for ax in part.axes:
        assert len(ax.lines) == 2 * 7
        assert all(look(line) == look(named[line.get_label()]) for line in ax.lines)

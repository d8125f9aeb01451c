"""Tables of Proposition 1 from hand-made records, with arithmetic by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats

from core.analysis.known import Known
from core.policies import Beta, LearnedConfig, NoMix
from hpo.analyses.proposition1.comparison import (
    CHANGE_COLUMNS,
    COMPARISON_COLUMNS,
    LOOK_COLUMNS,
    compare_curvature,
    compare_over_training,
    looks_table,
)
from hpo.analyses.proposition1.figure import curvature_figure
from hpo.analyses.proposition1.report import curvature_markdown, proposition1_report
from hpo.cells.record import CellRecord
from hpo.report.outcome import Outcome
from hpo.study.rows import Row, StudyRow

MakeRecord = Callable[..., CellRecord]

ROWS = [
    StudyRow(Row("none", "No MixUp", "", "none"), NoMix()),
    StudyRow(Row("beta-1", "MixUp", "", "beta"), Beta(alpha=1.0)),
    StudyRow(Row("metamixup", "MetaMixUp", "", "learned"), LearnedConfig()),
]
KAPPAS = {
    "none": ([1.0, 2.0, 4.0], [8.0, 4.0, 16.0]),
    "beta-1": ([1.0, 1.0, 1.0], [2.0, 1.0, 3.9]),
    "metamixup": ([1.0, 1.0, 1.0], [4.0, 8.0, 16.0]),
}
"""By method: of three seeds at epoch 1, and at epoch 3."""

KNOWN = [Known("squares", 10.0, 9.999, 9.998, 0, 1800)]


def metrics(epoch: int, kappa: float, above: int = 0) -> dict[str, float]:
    """Returns an epoch that was looked at: the logit has κ, the probability a hundredth of it."""
    numbers: dict[str, float] = {"epoch": float(epoch)}
    for output, factor in (("logit", 1.0), ("probability", 0.01)):
        numbers |= {
            f"{output}_kappa": kappa * factor,
            f"{output}_kappa_median": kappa * factor / 2,
            f"{output}_ratio": kappa * factor / 4,
            f"{output}_ratio_median": kappa * factor / 8,
            f"{output}_share": 0.25 + 0.01 * epoch,
            f"{output}_share_median": 0.1 * epoch,
            f"{output}_along_median": 0.5,
            f"{output}_above": float(above),
            f"{output}_growth": 0.001 * kappa,
            f"{output}_gap": 0.3,
        }
    return numbers | {
        "probability_mixup_l1": 0.4,
        "probability_l1_above": 62.5 if epoch == 1 else 12.5,
    }


@pytest.fixture
def records(make_record: MakeRecord) -> list[CellRecord]:
    return [
        make_record(
            row.row.key,
            seed,
            policy=row.policy,
            history=[
                metrics(1, KAPPAS[row.row.key][0][seed], above=seed),
                {"epoch": 2.0, "train_loss": 1.0},
                metrics(3, KAPPAS[row.row.key][1][seed]),
            ],
        )
        for row in ROWS
        for seed in (2, 0, 1)
    ]


def compared(records: list[CellRecord]) -> pd.DataFrame:
    rows = [row.row for row in ROWS]
    return compare_curvature(looks_table(records), rows)


def line(frame: pd.DataFrame, output: str, method: str) -> dict[str, Any]:
    (only,) = frame[(frame["output"] == output) & (frame["method"] == method)].to_dict("records")
    return only


def test_every_look_is_a_line(records: list[CellRecord]) -> None:
    looks = looks_table(records)
    assert list(looks.columns) == list(LOOK_COLUMNS)
    assert len(looks) == 3 * 3 * 2 * 2
    first = looks.iloc[:4]
    assert list(first["method"]) == ["none"] * 4
    assert list(first["seed"]) == [2] * 4
    assert list(first["epoch"]) == [1, 1, 3, 3]
    assert list(first["output"]) == ["logit", "probability"] * 2
    assert list(first["kappa"]) == [4.0, 0.04, 16.0, 0.16]
    assert math.isnan(first.iloc[0]["mixup_l1"])
    assert first.iloc[1]["mixup_l1"] == 0.4


def quotient(name: str, quotients: list[float]) -> dict[str, float]:
    """Their geometric mean with the 95 % interval and p of the t test of their logarithms."""
    logarithms = [math.log(q) for q in quotients]
    test = stats.ttest_1samp(logarithms, 0.0)
    ends = [math.exp(end) for end in test.confidence_interval(0.95)]
    middle = math.exp(sum(logarithms) / len(logarithms))
    return {name: middle, "ci_low": ends[0], "ci_high": ends[1], "p_value": float(test.pvalue)}


def test_kappa_against_that_without_mixing(records: list[CellRecord]) -> None:
    frame = compared(records)
    assert list(frame.columns) == list(COMPARISON_COLUMNS)
    none, beta = line(frame, "logit", "none"), line(frame, "logit", "beta-1")
    assert none["kappa"] == pytest.approx(8.0)  # (8 · 4 · 16)^(1/3)
    assert math.isnan(none["kappa_over_none"])
    assert math.isnan(none["p_value"])
    assert beta["n_seeds"] == 3
    expected = quotient("kappa_over_none", [2 / 8, 1 / 4, 3.9 / 16])
    assert {name: beta[name] for name in expected} == pytest.approx(expected)
    # Four comparisons on the data set: the two of this row have the smallest p.
    assert beta["p_holm"] == pytest.approx(4 * beta["p_value"])
    assert line(frame, "probability", "beta-1")["kappa"] == pytest.approx(7.8 ** (1 / 3) / 100)


def test_what_the_other_columns_hold(records: list[CellRecord]) -> None:
    learned = line(compared(records), "probability", "metamixup")
    assert learned["ratio"] == pytest.approx(0.02)  # 8/4 hundredths
    assert learned["share"] == pytest.approx(0.28)
    assert learned["share_median"] == pytest.approx(0.3)
    assert learned["above"] == 3  # 0 + 1 + 2, at epoch 1
    assert learned["growth"] == pytest.approx(0.016)
    last = [learned[name] for name in ("gap", "mixup_l1", "l1_above_first", "l1_above")]
    assert last == pytest.approx([0.3, 0.4, 62.5, 12.5])


def test_a_row_without_results_is_left_out(records: list[CellRecord]) -> None:
    frame = compared([record for record in records if record.cell.method != "none"])
    assert set(frame["method"]) == {"beta-1", "metamixup"}
    assert frame["kappa_over_none"].isna().all()


def markdown(records: list[CellRecord]) -> str:
    rows = [row.row for row in ROWS]
    labels = {row.key: row.label for row in rows}
    looks = looks_table(records)
    changed = compare_over_training(looks, rows)
    return curvature_markdown(looks, compared(records), changed, labels, KNOWN)


def test_what_changed_over_training(records: list[CellRecord]) -> None:
    """Of MixUp κ doubles, stays, and grows 3.9 times; its loss is the same."""
    rows = [row.row for row in ROWS]
    frame = compare_over_training(looks_table(records), rows)
    assert list(frame.columns) == list(CHANGE_COLUMNS)
    assert len(frame) == 3 * 3
    changes = frame.set_index(["method", "quantity"])
    expected = quotient("last_over_first", [2.0, 1.0, 3.9])
    expected |= {"first_epoch": 1, "last_epoch": 3, "n_seeds": 3}
    for quantity in ("logit", "probability"):
        assert dict(changes.loc[("beta-1", quantity), list(expected)]) == pytest.approx(expected)
    learned = changes.loc[("metamixup", "logit")]  # 4, 8 and 16 times: the smallest p of nine
    assert learned["p_holm"] == pytest.approx(9 * learned["p_value"])
    assert changes.loc[("beta-1", "loss"), "last_over_first"] == pytest.approx(1)
    assert changes.loc[("beta-1", "loss"), "p_value"] == 1


def test_the_report_says_what_the_numbers_say(records: list[CellRecord]) -> None:
    text = markdown(records)
    assert "| squares |  10 |    9.999 |         9.998 |     0 of 1800 |" in text
    assert "### digits: f is a logit" in text
    assert "### digits: f is a probability" in text
    assert "9 pairs are above their estimate; a pair attains at most 0.28 of" in text
    assert "κ is smaller than without mixing, with p (Holm) < 0.05, for MixUp." in text
    assert "κ is not told apart from that without mixing by these seeds for MetaMixUp." in text
    beta = next(row for row in text.splitlines() if row.startswith("| MixUp"))
    cells = [cell.strip() for cell in beta.strip("|").split("|")]
    assert cells[:2] == ["MixUp", "1.98"]
    assert cells[2].startswith("0.248 [0.24, 0.26]")
    assert cells[4:9] == ["0.496", "0.28", "0.30", "3", "0.3"]
    assert cells[9:] == ["–", "–"]
    probabilities = text[text.index("f is a probability") :]
    assert "|     0.4 | 62 % → 12 % |" in probabilities
    assert "| MixUp     | 0.100 ± 0.000 | 0.300 ± 0.000 |" in probabilities
    assert "### digits: what one may conclude" in text


def test_without_a_pair_above_the_sentence_is_another(make_record: MakeRecord) -> None:
    records = [
        make_record("none", 0, history=[metrics(1, 1.0)]),
        make_record("beta-1", 0, history=[metrics(1, 3.0)]),
    ]
    text = markdown(records)
    assert "(P2): no pair violates it; a pair attains at most 0.26" in text
    assert "smaller than" not in text
    assert "larger than" not in text
    assert "not told apart from that without mixing" not in text  # one seed: no test


def texts(figure: Figure) -> list[str]:
    panels = [t for ax in figure.axes for t in (ax.get_title(), ax.get_ylabel(), ax.get_xlabel())]
    return panels + [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_the_figure_draws_every_method_and_names_everything(records: list[CellRecord]) -> None:
    labels = {row.row.key: row.row.label for row in ROWS}
    figure = curvature_figure(looks_table(records), labels)
    assert len(figure.axes) == 6
    shown = texts(figure)
    rows = {"digits\nf is a logit", "digits\nf is a probability"}
    assert rows | {"epoch", *labels.values()} <= set(shown)
    assert all(ax.get_title() for ax in figure.axes)
    assert figure.legends[0].get_title().get_text().startswith("means over 3 seeds, bands")
    kappa = figure.axes[0]
    solid = [drawn for drawn in kappa.lines if drawn.get_linestyle() == "-"]
    assert [list(drawn.get_xdata()) for drawn in solid] == [[1, 3]] * 3
    assert [drawn.get_ydata()[1] for drawn in solid] == pytest.approx([8.0, 7.8 ** (1 / 3), 8.0])
    assert len({drawn.get_color() for drawn in solid}) == 3
    part = [record for record in records if record.cell.method != "none"]
    fewer = curvature_figure(looks_table(part), labels).axes[0].lines
    colors = {drawn.get_label(): drawn.get_color() for drawn in solid}
    left = {d.get_label(): d.get_color() for d in fewer if d.get_linestyle() == "-"}
    assert left == {label: colors[label] for label in left}
    assert len(left) == 2
    # Of the logit there is no ℓ1 loss, and its panel does not say that there is.
    assert (len(figure.axes[2].lines), len(figure.axes[5].lines)) == (3, 6)
    assert "ℓ1" not in figure.axes[2].get_title()
    assert "ℓ1" in figure.axes[5].get_title()


def test_files_and_metrics(records: list[CellRecord], outcome_of: Callable[..., Outcome]) -> None:
    extra = proposition1_report(outcome_of(ROWS, records))
    names = [
        f"figure-{name}" for name in ("looks.csv", "curvature.csv", "changes.csv", "curvature.png")
    ]
    assert [path.name for path in extra.files] == names
    assert all(path.stat().st_size for path in extra.files)
    assert len(pd.read_csv(extra.files[0])) == 36
    assert len(pd.read_csv(extra.files[1])) == 6
    beta = extra.metrics["beta-1", "digits"]
    assert beta["logit_kappa"] == pytest.approx(7.8 ** (1 / 3))
    assert beta["probability_above"] == 3.0
    assert "logit_kappa_over_none" not in extra.metrics["none", "digits"]
    assert "| squares" in extra.markdown


def test_trainings_that_were_not_looked_at_have_no_part(
    make_record: MakeRecord, outcome_of: Callable[..., Outcome]
) -> None:
    extra = proposition1_report(outcome_of(ROWS, [make_record("none", 0)]))
    assert (extra.markdown, extra.files, dict(extra.metrics)) == ("", [], {})

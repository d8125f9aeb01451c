"""Table III: its rows, and a smoke run of all of them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from core.policies import Beta
from hpo.cells.store import CellStore
from hpo.command_line import parse
from hpo.run.data import prepare
from hpo.search.configured import setting
from hpo.study.few_label_presets import METHODS
from hpo.study.recipes import Searched
from studies import table3

THIRTEEN = [
    "supervised-only",
    "pseudo-label",
    "pi-model",
    "mean-teacher",
    "vat",
    "vat-em",
    "mixup-pseudo-label",
    "mixup-apl",
    "metamixup-pseudo-label",
    "metamixup-apl",
    "mixmatch-no-mixup",
    "mixmatch",
    "mixmatch-metamixup",
]
SMALL = ["--preset", "smoke", "--dataset", "digits"]


def test_the_rows_are_the_papers_in_its_order_and_controls_after_them() -> None:
    table = table3.rows()
    assert [row.row.key for row in table[:13]] == THIRTEEN
    learned = [row.row.key for row in table if row.row.family == "learned"]
    assert learned == [key for key in THIRTEEN if "metamixup" in key]
    assert [row.row.key for row in table[13:]] == [
        f"{key}-{control}" for key in learned for control in ("placebo", "frozen")
    ]
    by_key = {row.row.key: row for row in table}
    for key in learned:
        counterpart = by_key[by_key[key].row.counterpart]
        assert counterpart.semi.method == by_key[key].semi.method
        assert counterpart.policy.kind == "beta"
        # λ starts from the distribution that it replaces.
        assert by_key[key].policy.reading.init_alpha == counterpart.policy.alpha


def test_methods_that_differ_in_one_thing_differ_in_nothing_else() -> None:
    """MixMatch without MixUp, with it and with MetaMixUp; APL and pseudo-labels, as they mix."""
    options = parse("table3", "", [*SMALL, "--seeds", "1"], semi_supervised=True)
    plan, _ = prepare("table3", table3.rows(), options, comparisons=table3.COMPARISONS)
    cells = {cell.method: cell.training for cell in plan.fixed_cells()}
    for group in (
        ("mixmatch-no-mixup", "mixmatch", "mixmatch-metamixup", "mixmatch-metamixup-placebo"),
        ("pseudo-label", "mixup-pseudo-label", "metamixup-pseudo-label"),
        ("mixup-apl", "metamixup-apl", "metamixup-apl-placebo"),
    ):
        stated = [{**cells[method].to_dict(), "policy": None} for method in group]
        assert all(one == stated[0] for one in stated), group
        assert len({cells[method].policy for method in group}) == len(group)
    assert cells["mixmatch"].policy == Beta(alpha=0.75, per_sample=True)
    assert cells["vat-em"].semi.entropy > 0 == cells["vat"].semi.entropy
    assert cells["mixup-apl"].semi.threshold_step == 0.05
    assert plan.size == 19


def test_in_a_contest_a_search_finds_the_knob_of_each_method(tmp_path: Path) -> None:
    knobs = {
        "supervised-only": {"lr"},
        "pseudo-label": {"threshold"},
        "pi-model": {"weight"},
        "mean-teacher": {"weight"},
        "vat": {"epsilon"},
        "vat-em": {"epsilon"},
        "mixup-pseudo-label": {"threshold", "alpha"},
        "mixup-apl": {"threshold_step", "alpha"},
        "metamixup-pseudo-label": {"threshold", "step_size"},
        "metamixup-apl": {"threshold_step", "step_size"},
        "mixmatch-no-mixup": {"weight"},
        "mixmatch": {"weight", "alpha"},
        "mixmatch-metamixup": {"weight", "step_size"},
    }
    assert list(knobs) == THIRTEEN
    by_key = {row.row.key: row for row in table3.CONTENDERS}
    assert list(by_key) == [f"{key}-searched" for key in THIRTEEN]
    flags = [*SMALL, "--seeds", "1", "--output", str(tmp_path), "--rows", ",".join(by_key)]
    options = parse("table3", "", flags, semi_supervised=True)
    plan, _ = prepare("table3", options.chosen(table3.rows(), table3.CONTENDERS), options)
    searches = plan.open_searches()
    assert {key for key, _, _ in searches} == set(by_key)
    for (key, _, _), search in searches.items():
        recipe, training = by_key[key].recipe, search.next().training
        assert isinstance(recipe, Searched)
        method = key.removesuffix("-searched")
        assert {*recipe.space} == knobs[method]
        assert training.semi.kind == METHODS[by_key[key].semi.method]
        drawn = {name: setting(training, name) for name in recipe.space}
        assert all(p.low <= drawn[name] <= p.high for name, p in recipe.space.items()), drawn
    assert by_key["mixmatch-metamixup-searched"].row.counterpart == "mixmatch-searched"
    assert all(row.row.family != "none" for row in table3.CONTENDERS)


@pytest.mark.parametrize(
    ("column", "errors"),
    [
        (("cifar10", 1000), (35.95, 20.66, 7.87, None)),
        (("cifar10", 4000), (20.34, 11.50, 6.42, 10.97)),
        (("svhn", 500), (17.71, 6.05, 3.79, None)),
        (("svhn", 1000), (12.93, 5.34, 3.32, 4.89)),
    ],
)
def test_the_papers_numbers_stand_in_its_columns(
    column: tuple[str, int], errors: tuple[float | None, ...]
) -> None:
    keys = ("supervised-only", "metamixup-apl", "mixmatch", "mixmatch-no-mixup")
    shown = {row.row.key: row.semi.paper_errors.get(column) for row in table3.rows()}
    assert tuple(shown[key] for key in keys) == errors


def test_some_rows_train_and_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], nothing_drawn: None
) -> None:
    rows = "supervised-only,pseudo-label,mixup-apl,metamixup-apl,metamixup-apl-placebo"
    command = [*SMALL, "--seeds", "2", "--rows", rows, "--labels", "30", "--output", str(tmp_path)]
    assert table3.main(command) == 0
    said = capsys.readouterr().out
    frame = pd.read_csv(tmp_path / "table3.csv").set_index("method")
    own = frame[~frame.index.isin(["supervised-only", "metamixup-apl-placebo"])]
    better = own["mean_error"] < frame.loc["supervised-only", "mean_error"]
    for words, labels in (
        ("Mean error below that of Supervised-Only", own["label"][better]),
        ("Not better than Supervised-Only", own["label"][~better]),
    ):
        assert f"- {words}: {', '.join(labels) or 'none'}." in said.splitlines()
    assert list(frame.index) == rows.split(",")
    assert (frame["n_seeds"] == 2).all()
    assert (frame["labels"] == 30).all()
    meta = frame["labels_with_meta"] - frame["labels"]
    assert meta.to_dict() == {
        key: 50 if key.startswith("metamixup") else 0 for key in rows.split(",")
    }
    assert frame["median_error"].between(0, 100).all()
    assert frame["paper_error"].isna().all()
    compared = frame["diff_vs_reference"].dropna()
    others = (
        frame.drop("supervised-only")["mean_error"] - frame.loc["supervised-only", "mean_error"]
    )
    pd.testing.assert_series_equal(compared, others, check_names=False, atol=1e-3)
    statistics = pd.read_csv(tmp_path / "table3-pseudo-labels.csv")
    assert set(statistics["method"]) == set(rows.split(",")) - {"supervised-only"}
    assert (statistics["accepted"] > 0).any()
    controls = pd.read_csv(tmp_path / "table3-controls.csv").set_index("control")
    assert controls["control_method"].fillna("").to_dict() == {
        "placebo": "metamixup-apl-placebo",
        "frozen": "",
        "counterpart": "mixup-apl",
    }
    report = (tmp_path / "table3.md").read_text()
    assert "30 training images are labelled" in report
    assert "MixUp + APL: kind=pseudo-label" in report


@pytest.mark.slow
def test_a_smoke_run_has_all_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*SMALL, "--seeds", "1", "--epochs", "1", "--output", str(tmp_path)]
    assert table3.main(flags) == 0
    frame = pd.read_csv(tmp_path / "table3.csv")
    assert list(frame["method"][:13]) == THIRTEEN
    assert len(frame) == 19
    assert (frame["n_seeds"] == 1).all()
    records = CellStore(tmp_path).records()
    assert {record.cell.training.semi.labelled for record in records} == {50}
    for name in ("table3.png", "table3-pseudo-labels.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    assert "MixMatch + MetaMixUp" in capsys.readouterr().out


def test_what_cannot_be_is_said_before_anything_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, said in (
        (["--labels", "0"], "--labels must be at least 1"),
        (["--label-noise", "0.4"], "semi-supervised training has no use for label_noise"),
        (["--rows", "mixmatch-metamixup-frozen"], "add it: mixmatch-metamixup"),
    ):
        assert table3.main([*SMALL, *flags, "--output", str(tmp_path)]) == 2
        assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("cells/*"))

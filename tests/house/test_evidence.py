"""Numbers in a page against the evidence files that it names."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pandas as pd
import pytest
import scipy.stats

from hpo.report.evidence_blocks import write_pages
from hpo.report.markdown import difference
from hpo.report.prose_numbers import untold
from studies.commands.pages import rows_of

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))]
PAGE = " ".join((DOCS / "few-labels.md").read_text(encoding="utf-8").split())


def rounded(value: float) -> float:
    """To two decimals, halves away from zero: files have four decimals, pages two."""
    return float(Decimal(str(value)).quantize(Decimal("0.01"), ROUND_HALF_UP))


def evidence(name: str) -> pd.DataFrame:
    return pd.read_csv(DOCS / "evidence" / f"{name}.csv")


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_page_on_few_labels_says_what_its_files_say(when: str) -> None:
    errors = evidence(f"mixmatch-half-{when}").set_index("method")
    row = errors.loc["mixmatch-metamixup"]
    assert f"{row['mean_error']:.2f} ± {row['ci_high'] - row['mean_error']:.2f}" in PAGE
    control = errors.loc["mixmatch"]
    columns = ["diff_vs_reference", "diff_ci_low", "diff_ci_high"]
    told = f"Supervised-Only, {difference(*control[columns])}, has p {control['p_value']:.3f}"
    assert told in PAGE
    controls = evidence(f"mixmatch-half-{when}-controls").set_index("control")
    assert set(controls.index) == {"placebo", "frozen", "counterpart"}
    assert (controls["p_holm"] > 0.2).all()
    for _, line in controls.iterrows():
        assert difference(*map(rounded, line[["difference", "ci_low", "ci_high"]])) in PAGE


def test_the_page_on_few_labels_says_how_lambda_moved() -> None:
    rows = evidence("lambda-half").to_dict("records")
    for row, words in zip(rows, ("from {}", "at 1/2: {}", "to {}"), strict=True):
        value = f"{row['correlation_of_wanted_and_obtained_move']:.2f}"
        assert words.format(value) in PAGE
        assert f"{100 * row['one_step_gain']:.2f} %" in PAGE
    assert f"{100 * rows[0]['share_of_downward_moves_ending_above']:.0f} % of the downward" in PAGE
    assert f"{100 * rows[1]['share_at_one_half']:.0f} % of all λ at 1/2" in PAGE


def test_every_table_in_a_page_is_that_of_its_file() -> None:
    """`make docs` makes them."""
    assert write_pages(PAGES, DOCS / "evidence", check=True, rows=rows_of) == []


def test_numbers_in_words_stand_in_the_evidence_of_their_section() -> None:
    told = {page.name: untold(page, DOCS / "evidence") for page in PAGES}
    assert {name: numbers for name, numbers in told.items() if numbers} == {}


SEEDS = sorted((DOCS / "evidence").glob("*-seeds.csv"))


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.stem)
def test_a_table_follows_from_its_trainings(path: Path) -> None:
    """Means, t intervals and, where the table pairs, differences and p, by SciPy from the seeds."""
    trained = pd.read_csv(path, keep_default_na=False)
    errors = trained.pivot(index=["dataset", "seed"], columns="method", values="test_error")
    table = pd.read_csv(path.with_name(path.name.replace("-seeds", "")), keep_default_na=False)
    mean = "mean_error" if "mean_error" in table else "mean"
    for line in table.to_dict("records"):
        own = errors.loc[line["dataset"], line["method"]].dropna()
        assert len(own) == line["n_seeds"]
        assert own.mean() == pytest.approx(line[mean], abs=1e-4)
        if len(own) > 1:
            interval = scipy.stats.t.interval(0.95, len(own) - 1, own.mean(), scipy.stats.sem(own))
            assert interval == pytest.approx((line["ci_low"], line["ci_high"]), abs=1e-3)
    for line in table.to_dict("records"):
        if line.get("p_value", "") == "":
            continue
        reference = line.get("reference")
        if reference is None:
            tried = table[table["dataset"] == line["dataset"]]
            reference = tried.loc[tried["best_beta"].astype(str) == "True", "method"].item()
        if line["method"] != reference:
            pair = errors.loc[line["dataset"], [line["method"], reference]].dropna()
            p_value = scipy.stats.ttest_rel(*pair.T.to_numpy()).pvalue
            assert p_value == pytest.approx(float(line["p_value"]), rel=1e-2)

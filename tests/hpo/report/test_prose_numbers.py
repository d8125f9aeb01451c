"""Numbers in running text, found in the evidence of their section or named."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpo.report.prose_numbers import untold
from studies.commands.pages import main

CSV = """method,mean_error,ci_low,ci_high,share,difference,diff_ci_low,diff_ci_high
none,16.004,15.864,16.144,0.2134,,,
beta-1,14.966,14.676,15.256,0.5,-1.038,-1.31,-0.766
"""
TABLE = "<!-- evidence: errors view=plain -->\n\n| old | 1.5 |\n\n<!-- end -->\n"


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    (tmp_path / "docs" / "evidence").mkdir(parents=True)
    (tmp_path / "docs" / "evidence" / "errors.csv").write_text(CSV)
    return tmp_path / "docs"


def told(docs: Path, text: str) -> list[str]:
    page = docs / "page.md"
    page.write_text(text)
    return untold(page, docs / "evidence")


@pytest.mark.parametrize(
    "words",
    [
        "no mixing has 16.00, or 16.0",
        "no mixing has 16.00 ± 0.14",
        "mixing makes 1.04 [0.77, 1.31] points fewer",
        "the difference is −1.04\n[−1.31, −0.77]",
        "21.3 % of λ and a share of 0.21",
        "`17.25`, [α = 0.73](x_9.9.png), 3 seeds, torch 2.99, Python 3.77 to 3.79, p < 0.123",
        "α = 0.37, 0.55 and 0.7; version 1.2.3, arXiv:1908.10059",
        "```\n17.25\n```\n\n    17.25\n\n### 17.25",
    ],
)
def test_numbers_of_the_evidence_settings_and_code_are_fine(docs: Path, words: str) -> None:
    assert told(docs, f"# Page\n\n## One\n\n{TABLE}\n{words}\n") == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("no mixing has 16.01", ["16.01"]),
        ("16.00 ± 0.29, which is another row's", ["16.00 ± 0.29"]),
        ("1.04 [0.77, 1.32] fewer", ["1.04 [0.77, 1.32]"]),
        ("a difference of −1.04 [−1.31, +0.77]", ["−1.04 [−1.31, +0.77]"]),
        ("15.86 [14.68, 15.26]", ["15.86 [14.68, 15.26]"]),
        ("21.3 of λ, p = 0.009", ["21.3", "0.009"]),
        ("(17.25), *17.75*.", ["17.25", "17.75"]),
    ],
)
def test_other_numbers_are_named(docs: Path, words: str, named: list[str]) -> None:
    assert told(docs, f"## One\n\n{TABLE}\n{words}\n") == [f"One: {', '.join(named)}"]


def test_evidence_is_that_of_the_section_or_of_what_it_links_to(docs: Path) -> None:
    text = f"top 16.00\n\n## One\n\n{TABLE}\n## Two\n\n16.00{{}}\n"
    assert told(docs, text.format("")) == ["Two: 16.00"]
    assert told(docs, text.format(", [CSV](evidence/errors.csv)")) == []
    assert told(docs, text.format(", [above](#one)")) == []
    (docs / "other.md").write_text(f"## First\n\n{TABLE}\n## Second thing\n\n16.00\n")
    assert told(docs, text.format(", [there](other.md#first)")) == []
    assert told(docs, text.format(", [there](other.md)")) == []
    assert told(docs, text.format(", [there](other.md#second-thing)")) == ["Two: 16.00"]
    assert told(docs, "16.00 on a page without evidence") == []


def test_pages_are_not_up_to_date_with_such_a_number(
    docs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--root", str(docs.parent)]
    (docs.parent / "README.md").write_text(f"## One\n\n{TABLE}\n16.00\n")
    assert main(where) == 0
    (docs / "page.md").write_text(f"## One\n\n{TABLE}\n16.07\n")
    assert main(where) == 1
    assert main([*where, "--check"]) == 1
    assert "page.md, One: 16.07: in no evidence of this section\n" in capsys.readouterr().out

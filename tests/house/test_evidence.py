"""Numbers in pages against the evidence files that they come from."""

from __future__ import annotations

from pathlib import Path

from hpo.report.evidence_blocks import write_pages
from hpo.report.prose_numbers import untold

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EVIDENCE = ROOT / "docs" / "evidence"


def test_every_table_in_a_page_is_that_of_its_file() -> None:
    """`make docs` makes them."""
    assert write_pages(PAGES, EVIDENCE, check=True) == []


def test_numbers_in_words_stand_in_the_evidence_of_their_section() -> None:
    told = {page.name: untold(page, EVIDENCE) for page in PAGES}
    assert {name: numbers for name, numbers in told.items() if numbers} == {}

"""Markdown of the studies as HTML, read back by Python's own parser."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hpo.report.page import anchor, page, to_html


class Reader(HTMLParser):
    """Tags with attributes, and the text in them, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1], data.strip()))


def read(markdown: str, folder: Path = Path()) -> Reader:
    reader = Reader()
    reader.feed(to_html(markdown, folder))
    reader.close()
    assert not reader.open
    return reader


def test_a_table_with_its_alignment() -> None:
    body = read(
        "| method | error (%) |\n| ------ | --------: |\n| a < b  | 7.20 ± 1 |\n| `c` | – |"
    )
    assert body.texts == [
        ("th", "method"),
        ("th", "error (%)"),
        ("td", "a < b"),
        ("td", "7.20 ± 1"),
        ("code", "c"),
        ("td", "–"),
    ]
    classes = [attributes.get("class") for tag, attributes in body.tags if tag in ("th", "td")]
    assert classes == [None, "right"] * 3


def test_a_bar_within_a_cell_stays_in_it() -> None:
    body = read("| a \\| b | c |\n| - | - |\n| `d \\| e` | f |")
    assert body.texts == [("th", "a | b"), ("th", "c"), ("code", "d | e"), ("td", "f")]


def test_headings_paragraphs_lists_and_code() -> None:
    body = read(
        "# One & two\ntext over\ntwo lines\n\n## Three\n- first\n  goes on\n- second\n\nafter\n"
        "```\n# no | heading\n- <b>\n```\nlast"
    )
    assert body.texts == [
        ("h1", "One & two"),
        ("p", "text over\ntwo lines"),
        ("h2", "Three"),
        ("li", "first\ngoes on"),
        ("li", "second"),
        ("p", "after"),
        ("code", "# no | heading\n- <b>"),
        ("p", "last"),
    ]
    assert body.tags[0] == ("h1", {"id": "one--two"})


def test_within_a_line() -> None:
    body = read("**bold** and *slanted*, 3 * 4 * 5, `a*b*c`, [here](#there) α*β")
    assert body.texts == [
        ("strong", "bold"),
        ("p", "and"),
        ("em", "slanted"),
        ("p", ", 3 * 4 * 5,"),
        ("code", "a*b*c"),
        ("p", ","),
        ("a", "here"),
        ("p", "α*β"),
    ]
    assert ("a", {"href": "#there"}) in body.tags


def test_text_is_never_markup() -> None:
    text = '<script>alert("x")</script> & <img src=x>'
    body = read(f"{text} **b**\n\n- {text}\n\n| {text} |\n| - |\n\n`{text}`\n\n# {text}")
    tags = {"p", "strong", "ul", "li", "div", "table", "thead", "tr", "th", "code", "h1"}
    assert {tag for tag, _ in body.tags} == tags
    assert [stated for tag, stated in body.texts if tag != "strong"] == [text] * 5


def test_pictures_become_part_of_the_page(tmp_path: Path) -> None:
    picture = b"\x89PNG not really"
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").write_bytes(picture)
    body = read("![a](sub/a.png)", tmp_path)
    ((_, _), (tag, attributes)) = body.tags
    assert (tag, attributes["alt"]) == ("img", "a")
    kind, _, data = str(attributes["src"]).partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == picture
    assert read("![b](b.png)", tmp_path).texts == [("em", "b.png is not there")]


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    text = page("A & B", "# A\n\ntext", tmp_path)
    reader = Reader()
    reader.feed(text.removeprefix("<!DOCTYPE html>"))
    assert ("title", "A & B") in reader.texts
    assert ("meta", {"charset": "utf-8"}) in reader.tags
    for word in ("http://", "https://", "<link", "<script", "url("):
        assert word not in text


@pytest.mark.parametrize(
    "text", ["|", "- ", "#", "# ", "```\nopen", "|||", "*", "![](x)", "[a]()", ""]
)
def test_odd_text_comes_to_an_end(text: str) -> None:
    read(text)


def test_anchors_are_what_github_makes() -> None:
    assert (
        anchor("Table II: MixUp with different α and λ") == "table-ii-mixup-with-different-α-and-λ"
    )

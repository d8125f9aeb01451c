"""A self-contained HTML page from the Markdown that the studies write, pictures and all."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff; }
h2 { border-top: 1px solid #ccc; padding-top: 1.5rem; margin-top: 3rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.7rem; border-bottom: 1px solid #ddd; text-align: left;
  white-space: nowrap; }
th.right, td.right { text-align: right; }
img { max-width: 100%; height: auto; display: block; margin: 1.5rem 0; }
pre { background: #f4f4f4; padding: 0.8rem; overflow-x: auto; }
code { background: #f4f4f4; }
"""


def page(title: str, markdown: str, folder: Path) -> str:
    """Returns the whole page.

    Args:
        title: of the window.
        markdown: see `to_html`.
        folder: what the pictures' addresses are relative to.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"{to_html(markdown, folder)}\n</body>\n</html>\n"
    )


def to_html(markdown: str, folder: Path) -> str:
    """Returns the body: CommonMark with tables; what looks like HTML in it is text.

    Headings get the ids that `anchor` makes. Pictures below the folder become part of the page; a
    picture that is not there is named.
    """
    parser = MarkdownIt("commonmark", {"html": False, "xhtmlOut": False}).enable("table")
    parser.add_render_rule("table_open", lambda *_: '<div class="table"><table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    tokens = parser.parse(markdown)
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", anchor("".join(t.content for t in _words(tokens[at + 1]))))
        elif token.attrs.pop("style", None) == "text-align:right":
            token.attrSet("class", "right")
        for part in token.children or ():
            if part.type == "image":
                _embed(part, folder)
    return str(parser.renderer.render(tokens, parser.options, {}))


def anchor(title: str) -> str:
    """Returns the id of a heading, as GitHub makes it of its text."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def sections(text: str) -> list[tuple[str, str]]:
    """Returns the text before the first ``##`` as "", and each section, with titles."""
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    return [("", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]


def _words(inline: Token) -> Iterator[Token]:
    return (token for token in inline.children or () if token.type in ("text", "code_inline"))


def _embed(picture: Token, folder: Path) -> None:
    """Puts the picture's data in the place of its address, or a word where it is not there."""
    path = folder / unquote(str(picture.attrs["src"]))
    try:
        data = base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError:
        picture.type = "html_inline"
        picture.content = f"<em>{html.escape(path.name)} is not there</em>"
    else:
        picture.attrSet("src", f"data:image/png;base64,{data}")

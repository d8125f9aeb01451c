"""A self-contained HTML page from the Markdown that the studies write, pictures and all."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

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
    """The whole page.

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
    """The body: of Markdown that has headings, paragraphs, lists of one level, tables, code blocks,
    and within them code, bold, emphasis, links and pictures. Everything else is text.

    Pictures below the folder become part of the page; a picture that is not there is named.
    """
    return "\n".join(_blocks(markdown.splitlines(), folder))


def _blocks(lines: Sequence[str], folder: Path) -> Iterator[str]:
    at = 0
    while at < len(lines):
        line = lines[at]
        heading = re.match(r"(#{1,6}) +(.*)", line)
        if not line.strip():
            at += 1
        elif heading:
            level, text = len(heading[1]), heading[2].strip()
            yield f'<h{level} id="{anchor(text)}">{_inline(text, folder)}</h{level}>'
            at += 1
        elif line.startswith("```"):
            end = _end(lines, at + 1, lambda text: not text.startswith("```"))
            yield f"<pre>{html.escape(chr(10).join(lines[at + 1 : end]))}</pre>"
            at = end + 1
        elif line.startswith("|"):
            end = _end(lines, at, lambda text: text.startswith("|"))
            yield _table(lines[at:end], folder)
            at = end
        elif line.startswith("- "):
            end = _end(lines, at, lambda text: text.startswith(("- ", "  ")))
            yield _list(lines[at:end], folder)
            at = end
        else:
            end = _end(lines, at, lambda text: bool(text.strip()) and not _starts_block(text))
            end = max(end, at + 1)
            yield f"<p>{_inline(' '.join(lines[at:end]), folder)}</p>"
            at = end


def _starts_block(line: str) -> bool:
    return line.startswith(("|", "- ", "```")) or re.match(r"#{1,6} ", line) is not None


def _end(lines: Sequence[str], start: int, belongs: Callable[[str], bool]) -> int:
    """The first line from `start` on that does not belong."""
    at = start
    while at < len(lines) and belongs(lines[at]):
        at += 1
    return at


def _list(lines: Sequence[str], folder: Path) -> str:
    items: list[str] = []
    for line in lines:
        if line.startswith("- "):
            items.append(line[2:])
        else:
            items[-1] += f" {line.strip()}"
    return "<ul>\n" + "\n".join(f"<li>{_inline(item, folder)}</li>" for item in items) + "\n</ul>"


def _table(lines: Sequence[str], folder: Path) -> str:
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    right: list[bool] = []
    if len(rows) > 1 and all(re.fullmatch(r":?-+:?", cell) for cell in rows[1]):
        right = [cell.endswith(":") for cell in rows.pop(1)]

    def row(cells: Sequence[str], tag: str) -> str:
        told = []
        for column, cell in enumerate(cells):
            aligned = ' class="right"' if column < len(right) and right[column] else ""
            told.append(f"<{tag}{aligned}>{_inline(cell, folder)}</{tag}>")
        return f"<tr>{''.join(told)}</tr>"

    body = "\n".join(row(cells, "td") for cells in rows[1:])
    return f'<div class="table"><table>\n{row(rows[0], "th")}\n{body}\n</table></div>'


_INLINE = re.compile(
    r"`(?P<code>[^`]+)`"
    r"|!\[(?P<alt>[^\]]*)\]\((?P<image>[^)\s]+)\)"
    r"|\[(?P<text>[^\]]+)\]\((?P<link>[^)\s]+)\)"
    r"|\*\*(?P<bold>[^*]+)\*\*"
    r"|(?<![\w*])\*(?P<emphasis>[^*\s](?:[^*]*[^*\s])?)\*(?![\w*])"
)


def _inline(text: str, folder: Path) -> str:
    parts: list[str] = []
    at = 0
    for found in _INLINE.finditer(text):
        parts.append(html.escape(text[at : found.start()]))
        parts.append(_span(found, folder))
        at = found.end()
    return "".join([*parts, html.escape(text[at:])])


def _span(found: re.Match[str], folder: Path) -> str:
    if found["code"]:
        return f"<code>{html.escape(found['code'])}</code>"
    if found["image"]:
        return _picture(found["alt"], folder / found["image"])
    if found["link"]:
        return f'<a href="{html.escape(found["link"])}">{html.escape(found["text"])}</a>'
    if found["bold"]:
        return f"<strong>{html.escape(found['bold'])}</strong>"
    return f"<em>{html.escape(found['emphasis'])}</em>"


def _picture(alt: str, path: Path) -> str:
    try:
        data = base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError:
        return f"<em>{html.escape(path.name)} is not there</em>"
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'


def anchor(title: str) -> str:
    """The id of a heading, as GitHub makes it of its text."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")

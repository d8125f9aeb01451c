"""One page of everything that studies left in a folder."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

from hpo.report.page import anchor, page
from hpo.storage.atomic import write_atomically

NAME = "index.html"


def write_front_page(output: Path) -> Path:
    """Writes ``output/index.html`` from the Markdown, pictures and tables that lie in the folder.

    Args:
        output: of the studies, absolute.

    Returns:
        The page. It holds its pictures; tables are linked as CSV.

    Raises:
        ValueError: the folder is not there, or no study has left a report in it.
    """
    if not output.is_dir():
        raise ValueError(f"{output} is no folder; give a study's --output")
    reports = sorted(output.glob("*.md"), key=lambda path: path.stem)
    if not reports:
        raise ValueError(f"{output} holds no report of a study; run one with --output {output}")
    parts = [_part(report) for report in reports]
    contents = [f"- [{report.stem}](#{anchor(report.stem)})" for report in reports]
    text = "\n\n".join([f"# Results in {output.name}", "\n".join(contents), *parts])
    path = output / NAME
    write_atomically(path, page(f"Results in {output.name}", text, output))
    return path


def _part(report: Path) -> str:
    """Returns a study's report, headings one lower, with its pictures and links to its data."""
    try:
        whole = report.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{report} is damaged ({error}); run its study again, which trains nothing twice"
        ) from error
    text = re.sub(r"^#", "##", whole.strip(), flags=re.MULTILINE)
    if not text.startswith("## "):
        text = f"## {report.stem}\n\n{text}"
    pictures = [
        f"![{path.stem}]({quote(path.name)})"
        for path in _beside(report, "png")
        if f"({path.name})" not in text
    ]
    data = ", ".join(f"[{path.name}]({quote(path.name)})" for path in _beside(report, "csv"))
    return "\n\n".join([text, *pictures, *([f"Data: {data}"] if data else [])])


def _beside(report: Path, kind: str) -> list[Path]:
    """Returns the files of a report's study, those that another report names left out."""
    stems = [path.stem for path in report.parent.glob("*.md")]
    longer = [stem for stem in stems if stem.startswith(f"{report.stem}-")]
    return [
        path
        for path in sorted(report.parent.glob(f"{report.stem}*.{kind}"), key=lambda path: path.stem)
        if path.stem == report.stem
        or (
            path.stem.startswith(f"{report.stem}-")
            and not any(path.stem == stem or path.stem.startswith(f"{stem}-") for stem in longer)
        )
    ]

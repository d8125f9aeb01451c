"""Shows what the studies left in a folder: one page with all their tables and pictures.

The page is DIR/index.html, a single file. It is made anew each time, and opened in the browser.

    metamixup open results
    metamixup open results --no-browser
"""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from hpo.command_line.flags import command, folder, program
from hpo.report.front_page import write_front_page


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page and opens it; returns the exit status."""
    parser = command(program("open"), __doc__)
    text = "output folder of studies (default: results)"
    parser.add_argument("output", metavar="DIR", nargs="?", type=folder, help=text)
    parser.add_argument("--no-browser", action="store_true", help="write the page, open nothing")
    options = parser.parse_args(arguments)
    try:
        page = write_front_page((options.output or Path("results")).expanduser().absolute())
    except (ValueError, OSError) as error:
        print(f"open: error: {error}", file=sys.stderr)
        return 2
    print(page)
    if not options.no_browser:
        webbrowser.open(page.as_uri())
    return 0

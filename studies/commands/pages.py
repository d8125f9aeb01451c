"""Makes the tables of README.md and docs/*.md from the evidence files, in a checkout.

A page holds a block for each table, `<!-- evidence: NAME view=... -->` to `<!-- end -->`;
`hpo/report/evidence_blocks.py` says what can stand in it. docs/evidence/NAME.csv is the table that
a study wrote, or NAME.txt what it says of its figure; NAME.json beside it says what was run. A
number in running text must stand in the evidence of its section (`hpo/report/prose_numbers.py`);
one that does not is named, and the exit status is 1. A row that today's code would train otherwise
is marked: its identity is another one, or its row has another policy or settings by now.

    metamixup pages                        make every block anew (also: make docs)
    metamixup pages --check                change nothing; exit 1 where a page differs, too
    metamixup pages --take results/table2.csv --name table2-digits --command "metamixup table2 ..."
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from hpo.cells.store import StoreError
from hpo.command_line.flags import command, program
from hpo.report.evidence import take
from hpo.report.evidence_blocks import write_pages
from hpo.report.prose_numbers import untold
from hpo.study.row_names import chosen_rows
from hpo.study.rows import StudyRow


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the pages, or takes a table; returns the exit status."""
    parser = command(program("pages"), __doc__)
    add = parser.add_argument
    add("--root", type=Path, default=Path(), metavar="DIR", help="the checkout (default: here)")
    add("--check", action="store_true", help="change nothing; exit 1 where a page differs")
    add("--take", type=Path, metavar="FILE", help="copy this CSV or STUDY.md to the evidence")
    add("--name", help="of the evidence that is taken (default: of the CSV)")
    add("--command", default="", help="what was run to make it")
    add("--setting", default="", help='what sets its data apart from other tables: "long tail"')
    options = parser.parse_args(arguments)
    evidence = options.root / "docs" / "evidence"
    try:
        if options.take is not None:
            if not options.command:
                raise ValueError("--take needs --command, what was run to make the table")
            name = options.name or options.take.stem
            about = (options.command, options.setting)
            files = take(options.take, name, *about, evidence, rows_of)
            print("written: " + ", ".join(map(str, files)))
            return 0
        if not evidence.is_dir():
            raise ValueError(f"{evidence} is not there; run this in a checkout, or give --root")
        pages = [options.root / "README.md", *sorted((options.root / "docs").rglob("*.md"))]
        changed = write_pages(pages, evidence, check=options.check, rows=rows_of)
        unsupported = [(path, numbers) for path in pages for numbers in untold(path, evidence)]
    except (ValueError, OSError, StoreError) as error:
        print(f"pages: error: {error}", file=sys.stderr)
        return 2
    for path in changed:
        print(f"{path}: {'differs from the evidence' if options.check else 'made anew'}")
    for path, numbers in unsupported:
        print(f"{path}, {numbers}: in no evidence of this section")
    return 1 if unsupported or (options.check and changed) else 0


def rows_of(command: str) -> Mapping[str, StudyRow]:
    """Returns the rows that the study in a command has today, by key."""
    study = re.match(r"(?:metamixup |make |python studies/)([\w-]+)", command)
    module = f"studies.{study[1].replace('-', '_')}" if study is not None else ""
    if not module or find_spec(module) is None:
        return {}
    script = import_module(module)
    rows = [*getattr(script, "rows", list)(), *getattr(script, "CONTENDERS", ())]
    asked = re.search(r"--rows (\S+)", command)
    for name in asked[1].split(",") if asked is not None else ():
        with suppress(ValueError):  # the study has it no longer
            rows += chosen_rows(rows, [name])
    return {row.row.key: row for row in rows}

"""Compares trainings that are stored, over the seeds that they share; trains nothing.

The table has a line for each method and data set; a method that was trained with several settings
has one for each, and several folders are set side by side. The first column of differences is
against `--reference`: the paired difference with 95 % interval, p of the t test adjusted by Holm's
method for the comparisons of one data set, and the true difference that so many seeds would have
shown with 80 % power.

    metamixup compare-runs results
    metamixup compare-runs results --reference beta-1 --measure val_error
    metamixup compare-runs monday tuesday --methods none,metamixup
    metamixup compare-runs results --csv differences.csv
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hpo.cells.store import StoreError
from hpo.command_line.flags import command, folder, program
from hpo.report.stored_runs import MEASURES, stored_comparison, stored_comparison_text
from hpo.storage.atomic import write_csv


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the comparison; returns the exit status."""
    parser = command(program("compare-runs"), __doc__)
    add = parser.add_argument
    add("folders", metavar="DIR", nargs="+", type=folder, help="output folder of studies")
    add("--methods", metavar="KEY,KEY", help="only these (default: all)")
    add(
        "--reference",
        metavar="KEY",
        help="what the others are compared with (default: the first of --methods)",
    )
    what = "train_seconds leave out the search that chose a setting (default: %(default)s)"
    add("--measure", choices=MEASURES, default=MEASURES[0], help=what)
    add("--csv", type=Path, metavar="FILE", help="write the numbers, unrounded, to this file too")
    options = parser.parse_args(arguments)
    try:
        methods = options.methods.split(",") if options.methods else None
        told = stored_comparison(options.folders, methods, options.reference, options.measure)
        if options.csv is not None:
            write_csv(options.csv, told)
        print(stored_comparison_text(told))
    except (ValueError, OSError, StoreError) as error:
        print(f"compare-runs: error: {error}", file=sys.stderr)
        return 2
    return 0

"""What a study takes beside its trainings, and whether it loses any: many tiny cells.

The paper has no such table. Every cell trains a small network for one epoch on 20 images, which
takes some tens of milliseconds, so that what is left of the time is the study's own: Ray's,
MLflow's and the driver's. `--concurrent` runs so many studies at a time, each a process with a Ray
of its own, on one MLflow server that is started for them (or `--tracking-uri`).

The table has a column for each study, `load.csv` a row: cells lost, MLflow runs and those that are
there twice or not ended, overhead for each cell beyond its training in a bare loop, the driver's
CPU time, its time in the MLflow writer, and its memory over cells. `load-samples.csv` has memory
and times every 50 cells. Something lost makes the exit status 1.

    python studies/load.py                                 (1000 cells: minutes on two cores)
    python studies/load.py --cells 30 --concurrent 8       (eight studies on one server)
    python studies/load.py --search 4                      (rounds of a search: six minutes)

`--search K` measures something else: a search of twelve trials that sleep twenty seconds each, in
rounds of K on K workers, beside the same search with one at a time (`load-search.csv`).

Run again, a command reports what it has measured; --fresh measures again. What an interrupted
command has trained is kept, and the overhead is of the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hpo.bench.load.run import run_load


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the load; returns the exit status."""
    return run_load(__doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())

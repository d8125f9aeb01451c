"""The trainings of a load in a bare loop: no Ray, no MLflow, no checkpoint, no record.

    python -m hpo.bench.load.alone --seeds 20 --output DIR [any other flag of a study]

Prints the mean seconds of a training; the first one, which loads what every process loads once, is
left out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from hpo.bench.load.driver import ROWS, STUDY
from hpo.cluster.trainable import train
from hpo.command_line import parse
from hpo.run import prepare
from hpo.study.plan import source_key


def seconds_alone(arguments: Sequence[str] | None = None) -> float:
    """Mean seconds of a cell of the study with these flags; at least two seeds."""
    options = parse(STUDY, __doc__ or "", arguments)
    plan, sources = prepare(STUDY, ROWS, options)
    ended = []
    for cell in plan.fixed_cells():
        source = sources[source_key(cell.training)]
        train(cell, source=source, device=options.device, threads=options.threads)
        ended.append(time.perf_counter())
    return (ended[-1] - ended[0]) / (len(ended) - 1)


if __name__ == "__main__":
    print(seconds_alone())

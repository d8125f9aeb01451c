"""Does a search find the right α? What five searches find, beside the errors of constant α.

The paper has no such table. Rows: no MixUp, MixUp at six constant α, whose errors over the seeds
are the curve that a search looks for; and MixUp with α found by each of five searches, which share
neither a draw nor a training. The report says which α each found, how far their logarithms spread,
and what each α costs in errors against the α with the fewest test errors on the curve, which no
search can know. It leaves a figure of the curve with what was found.

A search compares trials by the meta-validation error. Where a trial is one training, its error on
500 images has a standard error of about two points, more than α moves; in the preset contest a
trial is three trainings.

    python studies/alpha_search.py --dataset digits --preset contest --seeds 10
    python studies/alpha_search.py --dataset fashion_mnist --preset contest --seeds 10

Cost in plain trainings: 12 a seed, and of the searches 60 trials, of three trainings each in the
preset contest.
"""

from __future__ import annotations

import sys
from functools import partial

from hpo.analyses.figures.alpha_search import alpha_search
from hpo.run import run_study
from hpo.study.named_rows import NONE, SEARCHED, beta, row
from hpo.study.recipes import SEARCHED_ALPHA, Searched
from hpo.study.rows import StudyRow
from studies.rows import renamed

SEARCHES = 5
APART = 1000
"""Seeds from one search to the next, more than a search has trials and trainings of a trial."""


def rows() -> list[StudyRow]:
    """Returns the rows of the table."""
    first = renamed(SEARCHED, label="MixUp, search 1", family="extra")
    return [NONE, *map(beta, (0.1, 0.2, 0.5, 1.0, 2.0, 4.0)), first, *map(_search, _LATER)]


_LATER = range(2, SEARCHES + 1)


def _search(number: int) -> StudyRow:
    recipe = Searched(SEARCHED_ALPHA.policy, SEARCHED_ALPHA.space, shift=APART * (number - 1))
    key = f"{SEARCHED.row.key}-{number}"
    return row(key, f"MixUp, search {number}", "alpha searched", "extra", recipe)


main = partial(run_study, "alpha_search", rows(), __doc__, extras=[alpha_search])

if __name__ == "__main__":
    sys.exit(main())

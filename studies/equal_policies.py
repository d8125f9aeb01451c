"""Does the bench tell equal policies apart? A negative control of every table that it prints.

The paper has no such table. Rows: no MixUp, and copies of MixUp whose α is within 0.2 % of 0.5. No
task can tell such α apart, but each copy trains its own way: in a training of some hundred steps
the smallest difference grows to that of another seed (in the preset smoke it does not). Whatever p
is found between copies is therefore due to chance, and p < 0.05 should be found in one pair of
twenty. The report says in how many it was, for as many seeds as there are and for fewer, and
whether the copies differ by more than their seeds explain (analysis of variance with seeds as
blocks). Where they do, each p of that setting is too small.

    python studies/equal_policies.py --dataset digits --preset contest --seeds 10
    python studies/equal_policies.py --dataset fashion_mnist --preset contest --seeds 10

Cost in plain trainings: 22 a seed.
"""

from __future__ import annotations

import sys
from functools import partial

from hpo.analyses.equal_policies import equal_policies
from hpo.run import run_study
from hpo.study.named_rows import NONE, beta
from hpo.study.rows import StudyRow

ALPHA = 0.5
COPIES = 21
STEP = 1e-4
"""From the α of one copy to that of the next."""


def rows() -> list[StudyRow]:
    """Returns no mixing, α = 0.5, and its copies by their distance from it."""
    return [NONE, *(beta(round(ALPHA + STEP * step, 6)) for step in _steps())]


def _steps() -> list[int]:
    return sorted(range(-(COPIES // 2), COPIES // 2 + 1), key=lambda step: (abs(step), step))


main = partial(run_study, "equal_policies", rows(), __doc__, extras=[equal_policies])

if __name__ == "__main__":
    sys.exit(main())

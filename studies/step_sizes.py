"""How far should λ move? Step sizes of learned λ and of scores, judged by meta-validation.

The paper has no such table. Rows: no MixUp, MixUp with α = 1, MetaMixUp at five step sizes and
scores at seven, the defaults among them. The rule is that of every search here, set down before the
study was run: the step with the lowest mean error on the meta-validation images over the seeds, and
of equal ones the lowest mean loss. A default stays unless the step that is chosen has a lower error
than the default's and a paired p < 0.05, adjusted for the steps of that policy. The test errors in
the table choose nothing.

Scores are for training images that are worse than the meta-validation images: `--label-noise`.

    python studies/step_sizes.py --dataset digits --preset contest --first-seed 20 --seeds 10
    python studies/step_sizes.py --dataset fashion_mnist --preset contest --first-seed 20 --seeds 3
    python studies/step_sizes.py --dataset digits --preset contest --label-noise 0.4 \\
      --first-seed 20 --seeds 10

Leaves step_sizes-steps.csv, a line a step, and its picture. Cost in plain trainings: 50 a seed.
"""

from __future__ import annotations

import sys
from functools import partial

from core.meta.reading import DEFAULT, SCORES, Reading
from core.policies import LearnedConfig, ScoresConfig
from hpo.analyses.figures.step_sizes import step_sizes
from hpo.run import run_study
from hpo.study.named_rows import METAMIXUP, MIXUP, NONE, row
from hpo.study.rows import StudyRow
from studies.rows import SCORES as SCORES_ROW

METAMIXUP_STEPS = (1.0, 2.0, DEFAULT.step_size, 8.0, 16.0)
SCORES_STEPS = (0.02, 0.05, 0.1, 0.25, SCORES.step_size, 1.0, 2.0)


def rows() -> list[StudyRow]:
    """Returns the rows of the table."""
    return [NONE, MIXUP, *map(_learned, METAMIXUP_STEPS), *map(_scores, SCORES_STEPS)]


def _learned(step: float) -> StudyRow:
    if step == DEFAULT.step_size:
        return METAMIXUP
    policy = LearnedConfig(reading=Reading(step_size=step))
    return row(
        f"metamixup-step-{step:g}", f"MetaMixUp, step {step:g}", f"step={step:g}", "learned", policy
    )


def _scores(step: float) -> StudyRow:
    if step == SCORES.step_size:
        return SCORES_ROW
    policy = ScoresConfig(reading=Reading(step_size=step))
    return row(
        f"scores-step-{step:g}", f"Scores, step {step:g}", f"step={step:g}", "learned", policy
    )


main = partial(run_study, "step_sizes", rows(), __doc__, extras=[step_sizes])

if __name__ == "__main__":
    sys.exit(main())

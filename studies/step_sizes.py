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
from dataclasses import replace
from functools import partial

from core.meta.reading import DEFAULT, SCORES
from core.policies.learned_config import MetaStageConfig
from hpo.analyses.figures.step_sizes import step_sizes
from hpo.run import run_study
from hpo.study.named_rows import METAMIXUP, MIXUP, NONE, row
from hpo.study.rows import StudyRow
from studies.rows import SCORES as SCORES_ROW

METAMIXUP_STEPS = (1.0, 2.0, DEFAULT.step_size, 8.0, 16.0)
SCORES_STEPS = (0.02, 0.05, SCORES.step_size, 0.25, 0.5, 1.0, 2.0)


def rows() -> list[StudyRow]:
    """Returns the rows of the table."""
    learned = [_moved(METAMIXUP, step) for step in METAMIXUP_STEPS]
    return [NONE, MIXUP, *learned, *(_moved(SCORES_ROW, step) for step in SCORES_STEPS)]


def _moved(original: StudyRow, step: float) -> StudyRow:
    """Returns the row with λ moved by this step, itself where that is its own."""
    policy = original.policy
    assert isinstance(policy, MetaStageConfig)
    if policy.reading.step_size == step:
        return original
    name, _, _ = original.row.label.partition(" (")
    shown = (f"{original.row.key}-step-{step:g}", f"{name}, step {step:g}", f"step={step:g}")
    moved = replace(policy, reading=replace(policy.reading, step_size=step))
    return row(*shown, original.row.family, moved)


main = partial(run_study, "step_sizes", rows(), __doc__, extras=[step_sizes])

if __name__ == "__main__":
    sys.exit(main())

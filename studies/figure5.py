"""Figure 5: average and minimal distance of mixed samples to real samples of other classes.

The paper trains a simple CNN on MNIST, takes "for each mixed sample the minimal Euclidean distance
in the feature space of the trained network between this mixed sample and all the different labeled
samples", and shows their average and minimum: "the generated samples for MetaMixUp turn out to be
farther to the set of the existing real samples", which it reads as less manifold intrusion.

Here for all policies, up to 2,000 mixed samples, equally many of each epoch, against all training
images (`core.analysis.intrusion`). Two things to know when reading it:

- Feature norms differ between networks, and distances with them. A policy that stretches features
  by two doubles every distance and changes nothing about intrusion. So the right half has distances
  relative to the mean distance between real images of different classes.
- A policy that hardly mixes has its samples where real ones are. No MixUp is drawn for that: its
  "mixed" samples are the training images themselves. The placebo tells what the distribution of λ
  alone does, and frozen λ draws from where learning ended.

The text says for each reading whether the claim holds against MixUp with Beta(1, 1), and whether
the default one's samples are farther than those of its controls.

Cost on two CPU cores: quick on digits a minute, on Fashion-MNIST about seven.

    python studies/figure5.py --dataset mnist --dataset fashion_mnist --preset quick --seeds 3
    ray submit CLUSTER.yaml studies/figure5.py -- --dataset mnist --preset paper --device cuda
    ray job submit --working-dir . -- python studies/figure5.py --output /shared/figures

Leaves figure5.png, figure5.csv and figure5.md; the table of errors is figure5-errors.csv. Run
again, a command goes on where it was; finished cells are never trained twice.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

from core.analysis.config import AnalysisConfig
from core.training.config import TrainingConfig
from hpo.analyses.figures.intrusion_bars import intrusion_bars
from hpo.run import run_study
from hpo.study.named_rows import ADAMIXUP, METAMIXUP, METAMIXUP_PAPER, MIXUP, NONE, beta, fixed
from hpo.study.rows import StudyRow, controls
from studies.rows import ADAMIXUP_PLAIN, SCORES, renamed

MIXED_SAMPLES = 2000


def rows() -> list[StudyRow]:
    """Returns all policies."""
    return [
        NONE,
        beta(0.2),
        MIXUP,
        fixed(0.5),
        renamed(ADAMIXUP_PLAIN, label="AdaMixUp (no discriminator)", setting="adamixup"),
        renamed(ADAMIXUP, setting="adamixup"),
        METAMIXUP_PAPER,
        METAMIXUP,
        *controls(METAMIXUP, plain=True),
        SCORES,
    ]


def adapted(training: TrainingConfig) -> TrainingConfig:
    """Returns the preset's training, looked at."""
    return replace(training, analysis=AnalysisConfig(mixed_samples=MIXED_SAMPLES))


main = partial(run_study, "figure5", rows(), __doc__, figure=intrusion_bars, adapted=adapted)

if __name__ == "__main__":
    sys.exit(main())
